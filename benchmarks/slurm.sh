#!/usr/bin/env bash
# Runs tests/small.yaml once here and once through a Slurm cluster of this one machine,
# and compares the tables.
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
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk 'NR == 2 { print $2 }') Gres=gpu:1
PartitionName=gpu Nodes=ALL Default=YES
END
echo "Name=gpu File=/dev/null" >"$work/gres.conf"

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

# Run the small configuration in a clone; every training and sampling asks for a GPU.
run() {
    git clone --quiet "$root" "$work/$1"
    cd "$work/$1"
    echo "resources: {04_train: {gpu: 1}, 05_sample: {gpu: 1}}" >>tests/small.yaml
    VIRTUAL_ENV=${VIRTUAL_ENV:-$root/.venv} ./run_all.sh --config tests/small.yaml "${@:2}"
}
(run local)
(run cluster --profile workflow/profiles/slurm --latency-wait 5 \
    --slurm-init-seconds-before-status-checks 10)
diff --recursive --exclude "*_budgets.*" "$work"/{local,cluster}/tables/small # but seconds
echo "The tables are the same."
