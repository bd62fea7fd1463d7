select cluster, node, boot_id, sampler_run, seq, digest
from segment
