delete from node_region;
delete from pue;
delete from region;
