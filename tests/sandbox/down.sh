#!/bin/bash
# down.sh [--purge]: ends the sandbox and leaves no process, mount, namespace or cgroup behind; with --purge no data and
# no users either.
. "$(dirname "$0")/lab.env"
if [ ! -f "$LAB/settings" ]; then # else the defaults would end somebody else's
    echo "nothing to end in $LAB"
    exit 0
fi

gone() { # PID
    for _ in $(seq 100); do
        ! dead "$1" || return 0
        sleep 0.05
    done
    false
}
stop() { # PID_FILE...
    for f in "$@"; do
        ! running "$f" || { kill "$pid" && gone "$pid"; } || kill -9 "$pid"
        rm -f "$f"
    done
}
inside() { ip netns pids "$NS" 2>/dev/null; }
prune() { find "$1" -depth -type d -exec rmdir {} \; 2>/dev/null; }
remove_cgroups() { # false while one is busy: PID 1 has yet to reap its last zombie
    for n in $(node_names); do
        for busy in /sys/fs/cgroup/*/slurm_"$n" "$V2/system.slice/${n}_slurmstepd.scope"; do
            [ ! -d "$busy" ] || prune "$busy"
            [ ! -d "$busy" ] || return 1
        done
    done
}

stop "$LAB"/pid/slurmd-* "$LAB"/pid/slurmctld "$LAB"/pid/slurmdbd "$LAB"/pid/mariadbd "$LAB"/pid/munged
for p in $(inside); do # samplers seal their segments
    [ "$(cat "/proc/$p/comm" 2>/dev/null)" != eco2ai-sampler ] || { kill "$p" && gone "$p"; }
done
stop "$LAB/pid/plant"
left=$(inside) # slurmstepd and jobs
for p in $left; do kill -9 "$p" 2>/dev/null; done
for p in $left; do gone "$p"; done
ip netns del "$NS" 2>/dev/null
if [ -e "$LAB/made_netns" ] && [ -z "$(ls -A /run/netns)" ]; then # iproute2 never removes it
    umount /run/netns && rmdir /run/netns && rm -f "$LAB/made_netns"
fi

for _ in $(seq 50); do
    ! remove_cgroups || break
    sleep 0.1
done
remove_cgroups || echo "warning: left behind: $busy" >&2
[ ! -e "$LAB/made_slice" ] || { prune "$V2/system.slice" && rm -f "$LAB/made_slice"; }
for n in $(node_names); do
    ! mountpoint -q "$LAB/$n/plant" || umount "$LAB/$n/plant" || umount -l "$LAB/$n/plant"
done
[ "${1:-}" != --purge ] || { "$HERE/users.sh" --remove && rm -rf --one-file-system "$LAB"; }
true
