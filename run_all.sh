#!/usr/bin/env bash
# Reproduces the paper. Sets up its environment on first use.
#
#   ./run_all.sh                       every table and figure, on the embedded data
#   ./run_all.sh test                  the tests
#   ./run_all.sh tab07 fig03           tables and figures whose names begin so
#   ./run_all.sh generate photo.jpg    the response to an own image
#   ./run_all.sh --config paper        on the real recordings
#   ./run_all.sh check --config paper  which of them, and which weights, are missing
#   ./run_all.sh fetch --config paper --dataset things-eeg2 --subjects 1,3   gets them
#   ./run_all.sh --config paper --profile workflow/profiles/slurm   on a cluster
#   ./run_all.sh --cores 4 -n          other options and targets go to Snakemake
set -euo pipefail
CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'run_all.sh: %s\n' "$*" >&2; exit 1; }

# Refuse a word that is one slip away from one of ours, before minutes of installing.
check_word() {
    local i known start words="test generate check fetch --config --cores --profile --dry-run"
    words+=" --dryrun --help --dataset --subject --subjects --run --weights"
    [[ " $words " != *" $1 "* ]] || return 0
    for known in $words; do
        for ((i = 0; i <= ${#1}; i++)); do
            start=${1:0:i}
            if [[ $known == "$start"?"${1:i}" || $known == "$start"?"${1:i+1}" ||
                $known == "$start${1:i+1}" || $known == "$start${1:i+1:1}${1:i:1}${1:i+2}" ]]; then
                fail "There is no option or command $1. Did you mean '$known'?"
            fi
        done
    done
}

# Say whether a command is a Python that the pinned packages are made for.
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

# Install the pinned packages into .venv; a finished installation leaves its pins behind.
install() {
    local python
    for python in python3 python3.11 python3.12 python3.13 python none; do
        ! fits "$python" || break
    done
    [ "$python" != none ] || fail "needs Python 3.11, 3.12 or 3.13; found" \
        "$(python3 --version 2>/dev/null || echo none). Install one from python.org or" \
        "with conda (environment.yml) and run this again."
    say "Setting up .venv with $("$python" --version) (once; a few minutes)"
    fits .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1 ||
        "$python" -m venv --clear .venv
    # torch first: other packages would otherwise choose a version of it
    .venv/bin/python -m pip install --quiet --quiet "$(grep '^torch==' requirements.txt)"
    .venv/bin/python -m pip install --quiet --quiet -r requirements.txt
    .venv/bin/python -m pip install --quiet --quiet --no-deps --no-build-isolation -e .
    cp requirements.txt .venv/installed.txt
}

# Put the active environment first on the PATH if this package is installed in it, else
# .venv; keep away what the shell holds for other work.
set_up() {
    local name active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    [ -w . ] || fail "$PWD cannot be written to. Clone the repository to a folder of your own."
    unset PYTHONHOME PYTHONOPTIMIZE JUPYTER_PATH JUPYTER_CONFIG_PATH
    for name in ${!SNAKEMAKE_@}; do unset "$name"; done
    if [ ! -w "${HOME:-/nonexistent}" ]; then  # caches need a place
        export HOME=$PWD/.home USER=${USER:-$(id -u)}
        mkdir -p "$HOME"
    fi
    if [ -n "$active" ] && (cd / && "$active/bin/python" -c \
        'from importlib.metadata import version; version("paperlib")' 2>/dev/null); then
        say "Using the active environment $active"
    else
        cmp -s requirements.txt .venv/installed.txt || install
        active=$PWD/.venv
    fi
    export PATH="$active/bin:$PATH" PYTHONPATH=$PWD
}

config=mini only= cores= kind=run profile=
passed=()
if [ "${1:-}" != test ]; then  # whose options are those of pytest
    check_word "${1:-}"
    for word; do [[ $word != --* ]] || check_word "${word%%=*}"; done
fi
case ${1:-} in
    test) shift; set_up; say "Running the tests"
        exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" ;;
    generate) shift; set_up; cd "$OLDPWD"; exec python -P -m workflow.generate "$@" ;;
    check | fetch)
        set_up
        [[ " $* " == *" --config"* ]] || set -- "$@" --config mini
        exec python -m workflow.data "$@" ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' run_all.sh; exit 0 ;;
        --config) config=${2:?--config needs a name}; shift ;;
        --config=*) config=${1#*=} ;;
        --cores) cores=${2:?--cores needs a number}; shift ;;
        --cores=*) cores=${1#*=} ;;
        --profile) passed+=("$1" "${2:?--profile needs a folder}"); profile=yes; shift ;;
        --profile=*) passed+=("$1"); profile=yes ;;
        -n | --dry-run | --dryrun) passed+=(-n); kind=dry ;;
        tab[0-9]* | fig[0-9]*) only+=${only:+,}$1; [ $kind = dry ] || kind=part ;;
        *) passed+=("$1"); [[ $kind$1 != run*/* ]] || kind=part ;;
    esac
    shift
done

set_up
mkdir -p .snakemake
exec 9>>.snakemake/run.lock  # locked as long as this script or Snakemake runs
machine=$(python -m workflow.preflight "$config" $kind ${passed[@]+"${passed[@]}"}) || exit 1
if [ -n "$profile" ]; then machine=; else cores=${cores:-all}; fi  # a profile says it itself
say "Configuration $config, cores: ${cores:-as in the profile}"
name=$(basename "${config%.*}")
page=results/$name/paper.html
[ $kind != run ] || say "What comes out can be read, as it comes, in $page"
# Snakemake looks for jobs once a timespan; with its default of a second that is a quarter
# of a core. Its own lock, which a killed run leaves behind, is not needed.
# On one machine, notebooks are forked from a process that has imported their packages.
export HF_HUB_OFFLINE=1 TQDM_MININTERVAL=20  # of notebooks; s between lines in a log
# glibc: keep memory that was freed, instead of asking the kernel for it in every step
export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000
preloaded=(python workflow/preloaded.py serve)
[ $kind = dry ] || passed+=(--quiet reason)
[ -z "$profile" ] && [ $kind != dry ] && [ "$(uname)" = Linux ] || preloaded=()
# shellcheck disable=SC2086
${preloaded[@]+"${preloaded[@]}"} python -m snakemake --snakefile workflow/Snakefile \
    --nolock --rerun-incomplete --keep-going ${machine} ${cores:+--cores "$cores"} --max-jobs-per-timespan 100/10s \
    ${passed[@]+"${passed[@]}"} --config "config=$config" ${only:+"only=$only"} || {
    free=$(df -Pk . | awk 'END { print $4 }')
    [ "${free:-100001}" -gt 100000 ] ||
        fail "The disk is full: make room and run the same command again."
    exit 1
}
if [ $kind != dry ]; then
    say "Tables and figures of the configuration $name"
    { find "tables/$name" "figures/$name" -type f ! -name '.*' 2>/dev/null || true; } | sort
    [ $kind != run ] || say "The page: $page"
fi
say "Took $((SECONDS / 60)) min $((SECONDS % 60)) s"
