#!/bin/sh
# Slurm Prolog and Epilog of eco2ai-hpc, one script under two names: leave a mark of the job's start or end in the run
# directory, wake the node's sampler, and in the prolog start a sampler where none runs. Beside it: README.md.
#
# A hook that fails drains its node, one that hangs holds the job. So all that can fail or hang is done by a worker, and
# the hook only waits for a clock: the worker stops it when done, else it runs out and the worker is left behind.

trap 'exit 0' EXIT # even where no process can be forked
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
patience_seconds=1.5

work() {
    set -f
    configure
    [ -e "$run_dir/disabled" ] || [ -e /etc/eco2ai-hpc/disabled ] && return
    case ${SLURM_SCRIPT_CONTEXT:-${0##*/}} in
        *epilog*) edge=end ;;
        *) edge=start ;;
    esac
    leave_mark
    # Opened for reading too, so that no reader is waited for; without one the byte is lost and the mark is found later.
    [ -p "$run_dir/poke" ] && printf . 1<>"$run_dir/poke"
    [ "$edge" = start ] && [ "$ECO2AI_HPC_LAUNCH" != systemd ] && ! is_running && launch
}

# The environment comes first, then the file. It is read and not sourced: a mistake in it must not end the hook.
configure() {
    file=/etc/default/eco2ai-hpc
    [ -r "$file" ] && while read -r line || [ -n "$line" ]; do
        name=${line%%=*} value=${line#*=}
        case $value in
            \"*\" | \'*\') value=${value#?} value=${value%?} ;;
        esac
        case $line in
            ECO2AI_HPC_RUN_DIR=*) : "${ECO2AI_HPC_RUN_DIR:=$value}" ;;
            ECO2AI_HPC_SPOOL_DIR=*) : "${ECO2AI_HPC_SPOOL_DIR:=$value}" ;;
            ECO2AI_HPC_SAMPLER=*) : "${ECO2AI_HPC_SAMPLER:=$value}" ;;
            ECO2AI_HPC_SAMPLER_ARGS=*) : "${ECO2AI_HPC_SAMPLER_ARGS:=$value}" ;;
            ECO2AI_HPC_LAUNCH=*) : "${ECO2AI_HPC_LAUNCH:=$value}" ;;
            ECO2AI_HPC_*=*) # for the sampler
                case $name in
                    *[!A-Z0-9_]*) ;;
                    *) export "$name=$value" ;;
                esac
                ;;
        esac
    done <"$file"
    run_dir=${ECO2AI_HPC_RUN_DIR:-/run/eco2ai-hpc}
    spool_dir=${ECO2AI_HPC_SPOOL_DIR:-/var/spool/eco2ai-hpc}
}

# NUL-separated, as in /proc/PID/environ, so that no value can break a record; the last record proves the mark complete.
leave_mark() {
    case $SLURM_JOB_ID in
        '' | *[!0-9]*) return ;;
    esac
    if [ ! -d "$run_dir/marks" ]; then
        umask 022 && mkdir -p "$run_dir" # users reach the sampler's socket in it
        umask 077 && mkdir -p "$run_dir/marks" "$run_dir/jobs"
    fi
    umask 077
    read -r uptime _ </proc/uptime
    printf '%s\0' mark=1 "edge=$edge" "uptime=$uptime" \
        ${SLURM_JOB_ID+"SLURM_JOB_ID=$SLURM_JOB_ID"} \
        ${SLURM_JOB_SLUID+"SLURM_JOB_SLUID=$SLURM_JOB_SLUID"} \
        ${SLURM_JOB_UID+"SLURM_JOB_UID=$SLURM_JOB_UID"} \
        ${SLURM_JOB_USER+"SLURM_JOB_USER=$SLURM_JOB_USER"} \
        ${SLURM_JOB_ACCOUNT+"SLURM_JOB_ACCOUNT=$SLURM_JOB_ACCOUNT"} \
        ${SLURM_JOB_PARTITION+"SLURM_JOB_PARTITION=$SLURM_JOB_PARTITION"} \
        ${SLURM_JOB_QOS+"SLURM_JOB_QOS=$SLURM_JOB_QOS"} \
        ${SLURM_JOB_RESERVATION+"SLURM_JOB_RESERVATION=$SLURM_JOB_RESERVATION"} \
        ${SLURM_JOB_RESTART_COUNT+"SLURM_JOB_RESTART_COUNT=$SLURM_JOB_RESTART_COUNT"} \
        ${SLURM_JOB_NUM_NODES+"SLURM_JOB_NUM_NODES=$SLURM_JOB_NUM_NODES"} \
        ${SLURM_NODELIST+"SLURM_NODELIST=$SLURM_NODELIST"} \
        ${SLURM_JOB_NODELIST+"SLURM_JOB_NODELIST=$SLURM_JOB_NODELIST"} \
        ${SLURM_JOB_CPUS_PER_NODE+"SLURM_JOB_CPUS_PER_NODE=$SLURM_JOB_CPUS_PER_NODE"} \
        ${SLURM_JOB_GPUS+"SLURM_JOB_GPUS=$SLURM_JOB_GPUS"} \
        ${CUDA_VISIBLE_DEVICES+"CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"} \
        ${ROCR_VISIBLE_DEVICES+"ROCR_VISIBLE_DEVICES=$ROCR_VISIBLE_DEVICES"} \
        ${SLURM_HET_JOB_ID+"SLURM_HET_JOB_ID=$SLURM_HET_JOB_ID"} \
        ${SLURM_JOB_EXCLUSIVE+"SLURM_JOB_EXCLUSIVE=$SLURM_JOB_EXCLUSIVE"} \
        ${SLURM_JOB_OVERSUBSCRIBE+"SLURM_JOB_OVERSUBSCRIBE=$SLURM_JOB_OVERSUBSCRIBE"} \
        ${SLURM_JOB_START_TIME+"SLURM_JOB_START_TIME=$SLURM_JOB_START_TIME"} \
        ${SLURM_JOB_END_TIME+"SLURM_JOB_END_TIME=$SLURM_JOB_END_TIME"} \
        ${SLURM_JOB_CORE_SPEC_COUNT+"SLURM_JOB_CORE_SPEC_COUNT=$SLURM_JOB_CORE_SPEC_COUNT"} \
        ${SLURM_JOB_CORE_SPEC_TYPE+"SLURM_JOB_CORE_SPEC_TYPE=$SLURM_JOB_CORE_SPEC_TYPE"} \
        ${SLURM_CLUSTER_NAME+"SLURM_CLUSTER_NAME=$SLURM_CLUSTER_NAME"} \
        ${SLURMD_NODENAME+"SLURMD_NODENAME=$SLURMD_NODENAME"} \
        ${SLURM_SCRIPT_CONTEXT+"SLURM_SCRIPT_CONTEXT=$SLURM_SCRIPT_CONTEXT"} \
        ${SLURM_JOB_EXIT_CODE+"SLURM_JOB_EXIT_CODE=$SLURM_JOB_EXIT_CODE"} \
        ${SLURM_JOB_EXIT_CODE2+"SLURM_JOB_EXIT_CODE2=$SLURM_JOB_EXIT_CODE2"} \
        ${SLURM_JOB_DERIVED_EC+"SLURM_JOB_DERIVED_EC=$SLURM_JOB_DERIVED_EC"} \
        complete=1 >"$run_dir/marks/.tmp.$$" &&
        mv -f "$run_dir/marks/.tmp.$$" "$run_dir/marks/$edge.$SLURM_JOB_ID.$$" ||
        rm -f "$run_dir/marks/.tmp.$$"
}

# sampler.pid holds a process id and that process's start time, field 22 of its stat: the 20th after the command's name.
is_running() {
    read -r pid started <"$run_dir/sampler.pid" && [ -n "$started" ] && read -r stat <"/proc/$pid/stat" || return
    set -- ${stat##*) }
    [ "$1" != Z ] && [ "${20}" = "$started" ]
}

# Returns once the sampler's daemon is out of slurmd's reach (its own session), since slurmd kills what a hook leaves.
launch() {
    if [ -z "$ECO2AI_HPC_SAMPLER" ]; then
        self=$(readlink -f "$0")
        ECO2AI_HPC_SAMPLER=${self%/share/eco2ai-hpc/*}/bin/eco2ai-sampler
        [ -x "$ECO2AI_HPC_SAMPLER" ] || ECO2AI_HPC_SAMPLER=/usr/bin/eco2ai-sampler
    fi
    cluster=$SLURM_CLUSTER_NAME node=$SLURMD_NODENAME
    # The daemon outlives the job: nothing of the job stays in its environment.
    unset SLURM_JOB_ID SLURM_JOBID SLURM_JOB_SLUID SLURM_JOB_UID SLURM_UID SLURM_JOB_GID SLURM_JOB_USER \
        SLURM_JOB_ACCOUNT SLURM_JOB_PARTITION SLURM_JOB_QOS SLURM_JOB_RESERVATION SLURM_JOB_RESTART_COUNT \
        SLURM_JOB_NUM_NODES SLURM_NODELIST SLURM_JOB_NODELIST SLURM_JOB_CPUS_PER_NODE SLURM_JOB_NTASKS \
        SLURM_HET_JOB_ID SLURM_PACK_JOB_ID SLURM_JOB_START_TIME SLURM_JOB_END_TIME SLURM_JOB_OVERSUBSCRIBE \
        SLURM_JOB_EXCLUSIVE SLURM_JOB_CORE_SPEC_COUNT SLURM_JOB_CORE_SPEC_TYPE SLURM_JOB_CONSTRAINTS \
        SLURM_JOB_LICENSES SLURM_JOB_EXTRA SLURM_JOB_COMMENT SLURM_JOB_WORK_DIR SLURM_JOB_STDIN SLURM_JOB_STDOUT \
        SLURM_JOB_STDERR SLURM_SCRIPT_CONTEXT SLURM_JOB_GPUS CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES \
        GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK
    cd /
    trap 'kill -KILL $!; exit' TERM
    "$ECO2AI_HPC_SAMPLER" run --run-dir "$run_dir" --spool-dir "$spool_dir" \
        ${cluster:+--cluster "$cluster"} ${node:+--node "$node"} $ECO2AI_HPC_SAMPLER_ARGS &
    wait $!
    trap - TERM
}

# slurmd waits for every process that holds its pipe, so no child may. Hence stderr is given up by exec: of a redirected
# group of commands the shell would keep a copy. The substitution lasts until the clock lets go of the inner pipe; it is
# not `wait`, from which dash never returns where SIGCHLD was inherited blocked.
exec </dev/null 2>/dev/null
worker=$(
    sleep "$patience_seconds" &
    clock=$!
    { work; kill -KILL "$clock"; } >/dev/null &
    echo $!
)
kill "$worker" # what is left of it
exit 0
