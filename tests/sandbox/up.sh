#!/bin/bash
# up.sh: brings up munge, MariaDB, slurmdbd, slurmctld, the power plant and $NODES nodes, all in one network namespace.
# shellcheck disable=SC2046,SC2086
set -eE
. "$(dirname "$0")/lab.env"
cd "$HERE"
unset TMPDIR # daemons of other users could not write there
trap 'echo "error: up.sh failed at line $LINENO; logs are in $LAB/log" >&2; echo "  try: $HERE/down.sh" >&2' ERR
t0=$(date +%s%3N)
step() {
    t1=$(date +%s%3N)
    printf '%-14s %5d ms\n' "$1" $((t1 - t0))
    t0=$t1
}
fill() { sed "s|@LAB@|$LAB|g; s|@V2@|$V2|g; s|@GATHER@|$gather|g" "$1"; }

# --- said now, what would fail later with an obscure message
[ "$(id -u)" = 0 ] || die "the sandbox needs root, as Slurm itself does"
for c in slurmd slurmctld slurmdbd munged mariadbd mariadb ip nsenter unshare setpriv gcc; do
    command -v $c >/dev/null || die "$c not found" "$HERE/install.sh"
done
[ ${#LAB} -le 70 ] || die "LAB is too long for the path of a unix socket (108 bytes): $LAB"
case $LAB in
    *[!A-Za-z0-9/._+-]*) die "LAB has characters that configuration files would misread: $LAB" ;;
    /run/* | /var/spool/* | /etc/default/*) die "LAB lies in a directory that each node has of its own: $LAB" ;;
esac
for h in prolog.sh epilog.sh; do
    [ -f "$HOOKS/$h" ] || die "no $h in HOOKS=$HOOKS"
done
for f in "$LAB"/pid/*; do
    ! running "$f" || die "already up ($f)" "$HERE/down.sh"
done
CGROUP=${CGROUP:-$([ -d /sys/fs/cgroup/cpuacct ] && echo v1 || echo v2)}
case $CGROUP in
    v1) tree=/sys/fs/cgroup/cpuacct/slurm_% gather=cgroup ;;
    v2) tree=$V2/system.slice/%_slurmstepd.scope gather=linux ;;
    *) die "CGROUP=$CGROUP is not v1 or v2" ;;
esac
[ "$CGROUP" = v1 ] || [ -n "$V2" ] || die "no cgroup2 is mounted here" "CGROUP=v1 $0"
[ ! -d "${tree/\%/${PFX}1}" ] ||
    die "another sandbox has nodes ${PFX}1.., or left ${tree/\%/${PFX}1} behind" "PFX=m NS=m LAB=/tmp/m $0"
mkdir -p "$LAB"
chmod 755 "$LAB"
setpriv --reuid slurm --regid slurm --clear-groups test -x "$LAB" ||
    die "user slurm cannot enter $LAB" "chmod 755 on its parents"

# --- places, programs, network
install -d -m 755 "$LAB"/{etc,pid,log,hooks,bin,home,truth,out}
install -d -m 755 -o slurm -g slurm "$LAB"/{state,log/slurm,ctlpid}
install -d -m 755 -o munge -g munge "$LAB/munge"
install -d -m 755 -o mysql -g mysql "$LAB/mysql"
for v in $SETTINGS; do printf '%s=%q\n' "$v" "${!v}"; done >"$LAB/settings"
for h in prolog.sh epilog.sh; do # copies: an edit in the checkout drains no node
    install -m 755 "$HOOKS/$h" "$LAB/hooks/.$h"
    mv "$LAB/hooks/.$h" "$LAB/hooks/$h"
done
gcc -O2 -o "$LAB/bin/eco2ai-plant" plant.c
gcc -O2 -o "$LAB/bin/burn" burn.c
ln -f "$LAB/bin/burn" "$LAB/bin/burn-heavy"
mountpoint -q /run/netns || touch "$LAB/made_netns"
ip netns add "$NS" 2>/dev/null || true
ip -n "$NS" link set lo up
ip -n "$NS" link show br0 >/dev/null 2>&1 || {
    # beside loopback: glibc's AI_ADDRCONFIG ignores that, and getaddrinfo() would fail in slurmdbd
    ip -n "$NS" link add br0 type bridge
    ip -n "$NS" addr add 10.99.0.1/24 dev br0
    ip -n "$NS" link set br0 up
}
in="nsenter --net=/run/netns/$NS" # not "ip netns exec": that remounts /sys and so hides the cgroups
step places

# --- munge
[ -s "$LAB/munge/key" ] || (umask 377 && head -c 128 /dev/urandom >"$LAB/munge/key" && chown munge: "$LAB/munge/key")
$in setpriv --reuid munge --regid munge --clear-groups munged --force --key-file="$LAB/munge/key" \
    --socket="$LAB/munge/sock" --pid-file="$LAB/munge/pid" --log-file="$LAB/munge/log" --seed-file="$LAB/munge/seed"
wait_for munge -S "$LAB/munge/sock" -n
cp "$LAB/munge/pid" "$LAB/pid/munged"
step munge

# --- MariaDB, on a socket only
sql() { mariadb --no-defaults -S "$LAB/mysql/sock" -e "$1"; }
[ -d "$LAB/mysql/data" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$LAB/mysql/data" \
    --auth-root-authentication-method=socket --skip-test-db --force >"$LAB/log/mariadb-install.log" 2>&1
$in setsid mariadbd --no-defaults --user=mysql --datadir="$LAB/mysql/data" --socket="$LAB/mysql/sock" \
    --pid-file="$LAB/mysql/pid" --skip-networking --skip-log-bin --innodb-buffer-pool-size=256M \
    --innodb-log-file-size=64M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 \
    </dev/null >"$LAB/log/mariadb.log" 2>&1 &
wait_for mariadb-admin --no-defaults -S "$LAB/mysql/sock" ping
cp "$LAB/mysql/pid" "$LAB/pid/mariadbd"
sql "create database if not exists slurm_acct_db; create user if not exists slurm@localhost identified by 'slurm';
    grant all on slurm_acct_db.* to slurm@localhost"
step mariadb

# --- configuration; two sockets where there are two CPUs to put into them
sockets=$(($(nproc) > 1 ? 2 : 1))
cores=$(($(nproc) / sockets))
cpus=$((sockets * cores))
{
    fill slurm.conf.in
    [ -z "$PROLOG_FLAGS" ] || echo "PrologFlags=$PROLOG_FLAGS"
    for i in $(seq "$NODES"); do
        echo "NodeName=$PFX$i NodeHostname=$PFX$i NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=$cpus Sockets=$sockets" \
            "CoresPerSocket=$cores ThreadsPerCore=1 RealMemory=4000"
    done
    echo "PartitionName=main Nodes=${PFX}[1-$NODES] Default=YES MaxTime=1:00:00 State=UP OverSubscribe=NO"
    [ -z "$EXTRA" ] || fill "$EXTRA"
} >"$LAB/etc/slurm.conf"
fill "cgroup.$CGROUP.conf.in" >"$LAB/etc/cgroup.conf"
cp eco2ai-hpc.toml "$LAB/etc/"
(umask 077 && fill slurmdbd.conf.in >"$LAB/etc/slurmdbd.conf" && chown slurm: "$LAB/etc/slurmdbd.conf")

# --- slurmdbd, users, slurmctld
$in slurmdbd
wait_for test -s "$LAB/ctlpid/slurmdbd.pid"
cp "$LAB/ctlpid/slurmdbd.pid" "$LAB/pid/slurmdbd"
wait_for $in sacctmgr -n show cluster
$in sacctmgr -n show cluster format=cluster | grep -qw lab || $in sacctmgr -i add cluster lab >/dev/null
step slurmdbd
./users.sh
step users
$in slurmctld
wait_for test -s "$LAB/ctlpid/slurmctld.pid"
cp "$LAB/ctlpid/slurmctld.pid" "$LAB/pid/slurmctld"
wait_for $in scontrol ping
step slurmctld

# --- the power plant, before the nodes, so that these inherit its mounts
for n in $(node_names); do
    install -d "$LAB/$n/plant"
    mount -t tmpfs -o size=1m,mode=755 eco2ai-plant "$LAB/$n/plant"
done
$in setsid "$LAB/bin/eco2ai-plant" -l "$LAB" -d "$tree" -c $cpus -s $sockets $(node_names) \
    </dev/null >"$LAB/log/plant.log" 2>&1 &
echo $! >"$LAB/pid/plant"
wait_for test -s "$LAB/$PFX$NODES/plant/proc/cpuinfo"
step plant

# --- nodes
if [ "$CGROUP" = v2 ]; then
    [ -d "$V2/system.slice" ] || { mkdir "$V2/system.slice" && touch "$LAB/made_slice"; }
    ! grep -qv ^0:: /proc/self/cgroup || gcc -shared -fPIC -O2 -o "$LAB/bin/cgroup2_only.so" cgroup2_only.c
fi
for n in $(node_names); do $in unshare --uts --mount ./node.sh "$n"; done
$in scontrol update nodename="${PFX}[1-$NODES]" state=resume 2>/dev/null || true # drained in an earlier life
ready="$in sinfo -h -N -r -t idle,mix,alloc,comp -o %N"                          # not idle: jobs of an earlier life
wait_for sh -c "[ \$($ready | sort -u | wc -l) = $NODES ]"
step nodes
