#!/usr/bin/env bash
# Runs tests/small.yaml once here and once through a Slurm cluster of this one machine,
# compares the results and writes what it found to benchmarks/slurm*.json.
#
#   apt-get install slurm-wlm munge    # Debian; their services need not run
#   python -m pip install -r workflow/profiles/slurm/requirements.txt
#   benchmarks/slurm.sh FOLDER         # new; for clones of HEAD, the cluster and its logs
#   benchmarks/slurm.sh FOLDER COMMAND # only starts the cluster and runs a command there
#   ACCOUNTING=yes benchmarks/slurm.sh ...  # with slurmdbd and mariadb-server, too
#
# No accounting unless it is asked for, and a GPU that Slurm counts but no program sees.
# For root, on a machine without another Slurm: jobs find the cluster by
# /etc/slurm/slurm.conf, a link that ends with this script, as do the daemons.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir "${1:?needs a folder}"
work=$(cd "$1" && pwd)
shift
host=$(hostname -s) user=$(id -un) pids=()
export PATH=$PATH:/usr/sbin SLURM_CONF=$work/slurm.conf
ln -s "$SLURM_CONF" /etc/slurm/slurm.conf # fails where there is one
trap 'rm /etc/slurm/slurm.conf; kill ${pids[@]+"${pids[@]}"} 2>/dev/null; wait' EXIT

mkdir "$work"/{munge,state,spool}
chmod 755 "$work" "$work/munge"
cat >"$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MailProg=/bin/true
GresTypes=gpu
JobCompType=jobcomp/filetxt
JobCompLoc=$work/jobs
Prolog=$work/prolog
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk 'NR == 2 { print $2 }') Gres=gpu:1
PartitionName=gpu Nodes=ALL Default=YES
END
echo "Name=gpu File=/dev/null" >"$work/gres.conf"
printf '#!/bin/sh\necho "gpu:$SLURM_JOB_GPUS" >>%s/gpus\n' "$work" >"$work/prolog"
chmod +x "$work/prolog"

# Start a daemon that stays in the foreground and writes a log.
start() {
    "$@" >"$work/$(basename "$1").log" 2>&1 &
    pids+=($!)
}
if [ "${ACCOUNTING:-no}" = yes ]; then
    cat >>"$SLURM_CONF" <<END
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass=$work/munge/socket
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
END
    cat >"$work/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
DbdHost=$host
DbdAddr=127.0.0.1
SlurmUser=$user
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=33060
StorageUser=$user
PidFile=$work/slurmdbd.pid
END
    chmod 600 "$work/slurmdbd.conf"
fi

mungekey --create --keyfile "$work/munge/key"
start munged --foreground --force --key-file "$work/munge/key" \
    --socket "$work/munge/socket" --pid-file "$work/munge/pid" \
    --seed-file "$work/munge/seed"
if [ "${ACCOUNTING:-no}" = yes ]; then
    mariadb-install-db --no-defaults --user="$user" --datadir="$work/database" \
        --auth-root-authentication-method=normal >"$work/database.log"
    start mariadbd --no-defaults --user="$user" --datadir="$work/database" \
        --bind-address=127.0.0.1 --port=33060 --socket="$work/database/socket"
    start slurmdbd -D # waits for the database
    for _ in {1..60}; do
        ! sacctmgr --immediate add cluster one >"$work/sacctmgr.log" 2>&1 || break
        sleep 1
    done
    sacctmgr --immediate add account account
    sacctmgr --immediate add user "$user" account=account
fi
start slurmctld -D
start slurmd -D
for _ in {1..60}; do
    [ "$(sinfo --noheader --format %t 2>/dev/null)" != idle ] || break
    sleep 1
done
sinfo
if [ $# -gt 0 ]; then "$@"; exit; fi

# Encoders and networks ask for a GPU, as they do in every configuration. One core for
# each notebook in both clones: sums of two threads differ in their last digits.
git clone --quiet "$root" "$work/local"
echo "resources: {00_minithings: {threads: 1}}" >>"$work/local/tests/small.yaml"
cp -r "$work/local" "$work/cluster"
export VIRTUAL_ENV=${VIRTUAL_ENV:-$root/.venv}
"$work/local/run_all.sh" --config tests/small.yaml
"$work/cluster/run_all.sh" --config tests/small.yaml --profile workflow/profiles/slurm \
    --latency-wait 5 --slurm-init-seconds-before-status-checks 10
PYTHONPATH=$root:$root/benchmarks "$VIRTUAL_ENV/bin/python" - "$work" "${ACCOUNTING:-no}" <<'END'
import filecmp
import json
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

from kills import results

from paperlib.atomic import write_text
from paperlib.paths import ROOT

work, accounting = Path(sys.argv[1]), sys.argv[2] == "yes"
here, there = work / "local", work / "cluster"
jobs, files = (work / "jobs").read_text().splitlines(), results(here)
commit = ["git", "-C", here, "rev-parse", "HEAD"]
names = ("snakemake", "snakemake-executor-plugin-slurm")
slurm = subprocess.check_output(["slurmctld", "-V"], text=True).split()[1]
report = {
    "date": str(date.today()),
    "commit": subprocess.check_output(commit, text=True).strip(),
    "versions": {"slurm": slurm} | {name: version(name) for name in names},
    "accounting": accounting,
    "jobs": len(jobs),
    "jobs_completed": sum("JobState=COMPLETED" in job for job in jobs),
    "jobs_with_gpu": (work / "gpus").read_text().count("gpu:0"),
    "files_compared": len(files),
    "files_only_in_one": sorted(files ^ results(there)),
    "files_that_differ": filecmp.cmpfiles(here, there, sorted(files), shallow=False)[1],
}
name = "slurm_accounting" if accounting else "slurm"
write_text(ROOT / f"benchmarks/{name}.json", json.dumps(report, indent=1) + "\n")
print(json.dumps(report, indent=1))
differ = report["files_only_in_one"] + report["files_that_differ"]
known = ("paper.html", "-epo.fif")  # show times; names its folder
sys.exit(not all(name.endswith(known) for name in differ))
END
