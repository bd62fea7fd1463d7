#!/bin/bash
# sh.sh [-u USER] [-n NODE] COMMAND...: runs it in the sandbox's network, as USER, and with -n within that node's host
# name and mounts.
. "$(dirname "$0")/lab.env"
user=() node=()
while getopts u:n: option; do
    case $option in
        u) user=(setpriv --reuid "$OPTARG" --regid "$OPTARG" --init-groups) ;;
        n)
            pid=$(cat "$LAB/pid/slurmd-$OPTARG" 2>/dev/null) || die "no node $OPTARG is up"
            node=("--mount=/proc/$pid/ns/mnt" "--uts=/proc/$pid/ns/uts")
            ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ -e "/run/netns/$NS" ] || die "not up: no network namespace $NS" "$HERE/up.sh"
exec nsenter "--net=/run/netns/$NS" "${node[@]}" --wd=/ "${user[@]}" "$@"
