select node, cpus, memory_bytes
from node_spec
where cluster = $cluster
qualify row_number() over (partition by node order by valid_from_utc desc) = 1
