"""The per-node daemon: tick -> read meters and jobs -> append to the spool. Standard library only."""
