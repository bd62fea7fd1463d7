-- A tick vanished without a word.
delete from tick where line = (select max(line) from tick);
