#!/bin/bash
# day.sh [submit|account]: a day in the life of the sandbox: its users' jobs, then their accounts in $LAB/out. Without a
# word both. DAY_SECONDS (60) is the length of the main jobs, IDLE_SECONDS (25) that of the empty time before; QUICK=1
# makes it a day of 45 s.
. "$(dirname "$0")/lab.env"
set -e
[ -z "${QUICK:-}" ] || : "${DAY_SECONDS:=14}" "${IDLE_SECONDS:=11}"
: "${DAY_SECONDS:=60}" "${IDLE_SECONDS:=25}"
sandbox=$HERE/sh.sh out=$LAB/out burn=$LAB/bin/burn
n1=${PFX}1 n2=${PFX}2 n3=${PFX}3
cpus=$(($(nproc) > 1 ? $(nproc) / 2 * 2 : 1)) # of a node, as up.sh has it
half=$(((cpus + 1) / 2))

part() { awk "BEGIN { print int($DAY_SECONDS * $1 + 0.5) }"; }
job() { # USER NAME OPTIONS... -- COMMAND: sets id
    user=$1 name=$2 options=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    id=$("$sandbox" -u "$user" sbatch --parsable --chdir="$LAB/home/$user" -o /dev/null -J "$name" "${options[@]}" \
        --wrap "$*")
    echo "$name $id" >>"$out/jobs.txt"
}
state() { "$sandbox" squeue -h -j "$1" -o %T 2>/dev/null | head -1; }
until_state() { # JOB STATE
    for _ in $(seq 600); do
        [ "$(state "$1")" != "$2" ] || return 0
        sleep 0.2
    done
    die "job $1 is not $2 but '$(state "$1")' after 120 s"
}
until_empty() { while [ -n "$("$sandbox" squeue -h)" ]; do sleep 0.5; done; }

submit() {
    : >"$out/jobs.txt"
    [ "$NODES" -ge 3 ] || die "the day needs 3 nodes, the sandbox has $NODES" "NODES=3 $HERE/up.sh"
    job alice dawn -N3 --exclusive -- "srun true" # its prologs start the samplers
    until_empty
    sleep "$IDLE_SECONDS" # idle power is learnt from empty nodes

    job alice pair -N2 -w "$n1,$n2" --exclusive -- srun --ntasks-per-node=1 -c "$cpus" "$burn" "$DAY_SECONDS" "$cpus"
    job alice heavy -w "$n3" -c "$half" --mem=1500 -- "$burn-heavy" "$DAY_SECONDS" "$half"
    job bob light -w "$n3" -c 1 --mem=500 -- "$burn" "$DAY_SECONDS" 1 30
    job bob sleeper -w "$n1" -c 1 -- sleep "$(part 0.4)"
    job alice short -w "$n2" -c 1 -- "$burn" 2
    job alice array -w "$n2" -c 1 --array=1-3 -- "$burn" "$(part 0.1)"
    job bob again -w "$n3" -c 1 --requeue -- "$burn" "$(part 0.3)"
    again=$id
    job alice cancelled -w "$n1" -c 1 -- "$burn" 600
    ended=$id

    until_state "$again" RUNNING
    sleep "$(part 0.15)"
    "$sandbox" scontrol requeue "$again" # it waits for cred_expire, and for the scheduler
    until_state "$ended" RUNNING
    sleep "$(part 0.15)"
    "$sandbox" -u alice scancel "$ended"
    until_empty
    job bob dusk -c 1 -- true # the database lags, but in order: once it knows this one's end it knows all
    until "$sandbox" sacct -X -n -P -j "$id" -o State | grep -q COMPLETED; do sleep 0.5; done
    "$sandbox" sacct -a -X -D -S now-1hour -E now -o JobID,JobName,User,State,Elapsed,NodeList,AllocTRES%40
}

spooled() { # every mark is consumed, and every end of a job lies in a sealed segment
    for n in $(node_names); do
        [ -z "$(ls "$LAB/$n/private/run/eco2ai-hpc/marks" 2>/dev/null)" ] || return
        ! grep -rqs --include='*.part' '"k":"job_end"' "$LAB/$n/private/var/spool/eco2ai-hpc" || return
    done
}

account() {
    export ECO2AI_HPC_CONFIG=$LAB/etc/eco2ai-hpc.toml ECO2AI_HPC_LEDGER=$out/ledger.duckdb
    eco="$sandbox $BIN/eco2ai-hpc" spools=() findings=0
    for _ in $(seq 150); do
        ! spooled || break
        sleep 0.5
    done
    spooled || die "after 75 s an end of a job is not yet sealed in $LAB/*/private/var/spool/eco2ai-hpc"
    # One state of the spools for the collector and for truth.py: the samplers go on sealing meanwhile.
    for n in $(node_names); do
        mkdir -p "$out/spool/$n"
        cp -Rn --preserve=all "$LAB/$n/private/var/spool/eco2ai-hpc/." "$out/spool/$n"
        spools+=("$out/spool/$n")
    done
    "$sandbox" sacct -a -X -D -n -P -S now-1day -E now -o JobIDRaw,AllocTRES,NNodes,JobName >"$out/sacct.txt"
    $eco collect "${spools[@]}" --jobs sacct
    $eco check || findings=$?
    $eco report --site --format json --output "$out/site.json"
    $eco report --site --format html --output "$out/site.html"
    for user in alice bob; do $eco report --user $user --format text --output "$out/$user.txt"; done
    "$HERE/truth.py" "$LAB" --report "$out/site.json" --sacct "$out/sacct.txt" --json "$out/truth.json" |
        tee "$out/truth.txt"
    return "$findings"
}

case ${1:-} in
    submit | account) "$1" ;;
    "")
        submit
        account
        ;;
    *)
        echo "error: usage: $0 [submit|account]" >&2
        exit 2
        ;;
esac
