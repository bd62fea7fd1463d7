select floor(epoch(max(to_utc))) as to_s from slurm_coverage where cluster = $cluster
