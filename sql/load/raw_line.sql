-- The lines of a batch of segments, as DuckDB's JSON reader sees them; a line it cannot read has k null.
-- Line numbers: the reader keeps the order of the files, so a line's number is its place after the file's first.
create or replace temp table raw_line as
with numbered as (
    select
        *,
        row_number() over () as place
    from read_json(
        $files,
        format = 'newline_delimited',
        ignore_errors = true,
        filename = true,
        maximum_object_size = 16777216,
        columns = {
            'k': 'VARCHAR', 't': 'TIMESTAMP', 'bt': 'BIGINT', 'why': 'VARCHAR', 'mem': 'BIGINT',
            'c': 'MAP(VARCHAR, BIGINT)', 'err': 'MAP(VARCHAR, VARCHAR)', 'busy': 'MAP(VARCHAR, BIGINT)',
            'jobs': 'MAP(VARCHAR, STRUCT(cpu BIGINT, mem BIGINT, cpuset VARCHAR, mem_limit BIGINT))',
            'run': 'VARCHAR', 'job': 'BIGINT', 'sluid': 'VARCHAR', 'uid': 'BIGINT', 'gpus': 'VARCHAR[]',
            'env': 'MAP(VARCHAR, VARCHAR)', 'name': 'VARCHAR', 'edge': 'VARCHAR',
            'reason': 'VARCHAR', 'since_bt': 'BIGINT',
            'cpu_us': 'BIGINT', 'rss_bytes': 'BIGINT', 'ticks': 'BIGINT', 'late_ms_max': 'BIGINT', 'read_errors': 'BIGINT'
        }
    )
)

select
    n.* exclude (place),
    s.cluster, s.node, s.boot_id, s.sampler_run, s.seq,
    cast(n.place - min(n.place) over (partition by n.filename) + 1 as integer) as line
from numbered as n
inner join batch as s on n.filename = s.file
