select file, line, expected, found, seen_at_utc
from ingest_problem
order by seen_at_utc desc, file, line
