# What the rules call: `stage VERB LOG ARGUMENTS…` or `shown VERB LOG ARGUMENTS…`, for `python -m common VERB`.
#
# The shell of every job sources this file (`shell.prefix` in rules/common.smk) with four arguments: the Python, the
# complete configuration, the folder that the code is imported from, and the module of the verbs. Snakemake runs jobs
# again whose command reads otherwise than before; so what differs between machines and configurations comes in by these
# arguments, and the commands of the rules are fixed texts.
set -euo pipefail

structseg_python=$1
structseg_configfile=$2
structseg_path=$3
structseg_module=$4
structseg_client=$(dirname "${BASH_SOURCE[0]}")/fork_client.py

# A shell that catches them waits for the stage, which saves its state and ends by itself.
trap : TERM INT

# Runs a verb, forked from the prepared process if the workflow has one (workflow/fork_server.py). The repository goes
# before what the user has on PYTHONPATH.
call() {
    local verb=$1 python=("$structseg_python")
    shift
    if [ -S "${STRUCTSEG_FORKS:-}" ]; then
        python+=(-I -S "$structseg_client")
    fi
    PYTHONPATH=$structseg_path${PYTHONPATH:+:$PYTHONPATH} \
        "${python[@]}" -m "$structseg_module" "$verb" --configfile "$structseg_configfile" "$@"
}

# Runs a verb with all its output in the log, and shows the end of that if it fails, else what begins with "structseg: ".
stage() {
    local verb=$1 log=$2
    shift 2
    local status=0
    call "$verb" "$@" >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || {
        if [ "$status" -eq 137 ]; then
            echo "structseg: $verb was killed, as a system does that runs out of memory:" \
                "set resources.mem_mb higher or run less at a time, and give the same command again" >>"$log"
        fi
        tail -n 20 "$log" >&2
        return 1
    }
    sed -n '/^structseg: waits/d; /^structseg: /p' "$log" >&2 # what a user must know although all went well
}

# Runs a verb and shows its output as it comes; the log has it too.
shown() {
    local verb=$1 log=$2
    shift 2
    call "$verb" "$@" | tee "$log"
}
