select floor(epoch(min(read_at_utc))) as from_s, ceil(epoch(max(read_at_utc))) as to_s
from tick
where cluster = $cluster
