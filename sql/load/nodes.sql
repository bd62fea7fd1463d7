select distinct cluster, node from segment order by cluster, node
