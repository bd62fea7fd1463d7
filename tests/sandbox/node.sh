#!/bin/bash
# node.sh NODE: called by up.sh within the node's own host name and mounts. Gives it its own /run, /var/spool and
# /etc/default, and starts its slurmd.
. "$(dirname "$0")/lab.env"
n=$1 own=$LAB/$1/private
hostname "$n"

# Whole directories: a mount point of ours on the host would have to be removed again, under a second sandbox's feet.
mkdir -p "$own/etc"
[ -d "$own/etc/default" ] || cp -a /etc/default "$own/etc/"
install -d -m 755 "$own/run/eco2ai-hpc"
install -d -m 700 "$own/var/spool/eco2ai-hpc"
args="--sysfs $LAB/$n/plant/sys --procfs $LAB/$n/plant/proc --cgroupfs /sys/fs/cgroup"
cat >"$own/etc/default/eco2ai-hpc" <<END
ECO2AI_HPC_SAMPLER=$SAMPLER
ECO2AI_HPC_SAMPLER_ARGS="$args --interval $INTERVAL --seal-seconds $SEAL_SECONDS"
END
for d in /run /var/spool /etc/default; do mount --bind "$own$d" "$d"; done

install -d "$LAB/$n/spool"
rm -f "$LAB/pid/slurmd-$n"
[ ! -f "$LAB/bin/cgroup2_only.so" ] || [ "$CGROUP" != v2 ] || export LD_PRELOAD="$LAB/bin/cgroup2_only.so"
slurmd -N "$n"
unset LD_PRELOAD
wait_for test -s "$LAB/pid/slurmd-$n" || die "slurmd of $n did not start: see $LAB/log/slurmd-$n.log"
