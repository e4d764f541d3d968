#!/usr/bin/env bash
# Reproduces the paper. Sets up its environment on first use.
#
#   ./run_all.sh                       every table and figure, on the embedded data
#   ./run_all.sh test                  the tests
#   ./run_all.sh --config paper        on the real recordings
#   ./run_all.sh check --config paper  which of them, and which weights, are missing
#   ./run_all.sh plan --config paper   every run of it, and the GPU hours; needs no data
#   ./run_all.sh fetch --config paper --dataset things-eeg2 --subjects 1,3   brings them
#   ./run_all.sh --only tab07          one table or figure, by how its name begins
#   ./run_all.sh --config paper --profile config/profiles/slurm   on a cluster
#   ./run_all.sh --cores 4 -n          any other option or target goes to Snakemake
#   ./run_all.sh tables/mini/tab01_things_eeg2.csv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'run_all.sh: %s\n' "$*" >&2
    exit 1
}

# Print the first Python that is new enough.
find_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "needs Python 3.11 or newer and found none; install it from python.org or with conda (environment.yml) and run this again."
}

# Install the pinned packages into .venv; a finished installation leaves its pins behind.
install() {
    local python
    python=$(find_python)
    say "Setting up .venv with $("$python" --version) (once; a few minutes)"
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
    # torch first: other packages would otherwise choose a version of it
    .venv/bin/python -m pip install --quiet --quiet "$(grep '^torch==' requirements.txt)"
    .venv/bin/python -m pip install --quiet --quiet -r requirements.txt
    .venv/bin/python -m pip install --quiet --quiet --no-deps --no-build-isolation -e .
    cp requirements.txt .venv/installed.txt
}

# Put an environment that satisfies the pins first on the PATH.
set_up() {
    local active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    if [ -n "$active" ] && "$active/bin/python" paperlib/environment.py requirements.txt; then
        say "Using the active environment $active"
        PATH="$active/bin:$PATH"
    else
        cmp -s requirements.txt .venv/installed.txt || install
        PATH="$PWD/.venv/bin:$PATH"
    fi
    export PATH PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
}

# Show what there is to look at.
list_results() {
    say "Tables and figures of the configuration $1"
    { find "tables/$1" "figures/$1" -type f -name "$2*" ! -name '.*' 2>/dev/null || true; } | sort
}

config=mini
only=
cores=
dry_run=
profile=
targets=
task=reproduce
passed=()
case ${1:-} in  # a command is the first word
    test) shift
        set_up
        say "Running the tests"
        exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" ;;
    check | fetch | plan) task=$1; shift ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        --config) config=${2:?--config needs a name}; shift ;;
        --config=*) config=${1#*=} ;;
        --profile) passed+=("$1" "${2:?--profile needs a folder}"); profile=yes; shift ;;
        --profile=*) passed+=("$1"); profile=yes ;;
        --only) only=${2:?--only needs the beginning of a name, such as tab07}; shift ;;
        --only=*) only=${1#*=} ;;
        --cores) cores=${2:?--cores needs a number}; shift ;;
        --cores=*) cores=${1#*=} ;;
        -n | --dry-run) dry_run=yes; passed+=("$1") ;;  # which also says why
        -*) passed+=("$1") ;;
        *) passed+=("$1"); [[ $1 != */* ]] || targets=yes ;;
    esac
    shift
done

set_up
if [ "$task" = plan ]; then
    passed+=(--quiet host rules reason progress -n --forceall)
    dry_run=yes
elif [ "$task" != reproduce ]; then
    exec python -m paperlib "$task" --config "$config" ${passed[@]+"${passed[@]}"}
fi

# A whole run stops here if inputs are missing; of a part, Snakemake knows what it needs.
if [ -z "$dry_run" ] && ! python -m paperlib check --config "$config"; then
    [ -n "$only$targets" ] || fail "the run needs what is missing above."
    say "Going on with what was asked for"
fi

[ -n "$dry_run" ] || passed+=(--quiet reason)
machine=()
if [ -z "$profile" ]; then  # which else says how much there is
    cores=${cores:-all}
    memory=$(python -c 'import os; print(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6)')
    machine=(--resources "mem_mb=$memory")  # a run that declares more has it for itself
    gpus=$(python -m paperlib.gpus)
    [ "$gpus" -gt 0 ] || [ "$config" != paper ] || say "No NVIDIA GPU here: networks of full size would train for months"
    [ "$gpus" -eq 0 ] || machine+=("gpu=$gpus")  # one run on each at a time
fi
# Snakemake looks for work once more a timespan for every run that has finished: with its
# default of a second that is a quarter of a core.
say "Configuration $config, cores: ${cores:-as in the profile}"
python -m snakemake ${cores:+--cores "$cores"} ${machine[@]+"${machine[@]}"} \
    --config "config=$config" ${only:+"only=$only"} \
    --max-jobs-per-timespan 100/10s --rerun-incomplete --keep-going ${passed[@]+"${passed[@]}"}
[ -n "$dry_run" ] || list_results "$config" "$only"
say "Took $((SECONDS / 60)) min $((SECONDS % 60)) s"
