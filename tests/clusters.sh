#!/usr/bin/env bash
# Tests against real engines: installs and starts each one in a folder of its own, runs the tests
# that need it, and ends it again. Debian or Ubuntu, as root for the packages and the namespaces.
#
#     tests/clusters.sh short            # what .ci/run does: joblib slurm dask mpi search
#     tests/clusters.sh long             # and ray, postgresql, two namespaces, delays
#     tests/clusters.sh short slurm      # one engine, or several
#
# LLMLAB_CLUSTER_PYTHON is a Python with llmlab and pytest; else a new environment is made.
# LLMLAB_CLUSTER_TESTS chooses among the tests, as -k of pytest does.
# A test skips with the reason where this machine can't: no root, no network namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."
form=${1:-short}
shift || true
case $form in
    short) engines=(joblib slurm dask mpi search) ;;
    long) engines=(joblib slurm dask ray mpi search postgresql) ;;
    *)
        echo "usage: tests/clusters.sh short|long [ENGINE ...]" >&2
        exit 2
        ;;
esac
[ $# -eq 0 ] || engines=("$@")
work=$(mktemp -d)
chmod 755 "$work"
began=$SECONDS
declare -a at_end=()   # commands that end what was started, the last one first
export LLMLAB_CLUSTERS=$form LLMLAB_CLUSTERS_WORK=$work
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

say() { printf '\n== %s (%d s)\n' "$*" "$((SECONDS - began))"; }

finish() {
    local code=$? at
    for ((at = ${#at_end[@]} - 1; at >= 0; at--)); do
        eval "${at_end[at]}" >/dev/null 2>&1 || true
    done
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# packages NAME ...: install those Debian packages that aren't there; false if that can't be.
packages() {
    local missing=() name
    for name in "$@"; do
        dpkg -s "$name" >/dev/null 2>&1 || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    # Their services must not start by themselves: ours have folders of their own.
    local policy=/usr/sbin/policy-rc.d made=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; }
    apt-get update -qq >/dev/null &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >/dev/null
    local code=$?
    [ -z "$made" ] || rm -f $policy
    return $code
}

# python EXTRA ...: set $python to one that has llmlab with these extras.
python() {
    local extras
    extras=$(IFS=,; echo "$*")
    if [ -n "${LLMLAB_CLUSTER_PYTHON:-}" ]; then
        python=$LLMLAB_CLUSTER_PYTHON
        return
    fi
    [ -d "$work/venv" ] || python3 -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install -e ".[test,$extras]"
}

# tests FILE ...: run the tests of an engine; -rs shows why some are skipped.
tests() {
    "$python" -m pytest -q -n0 -rs --durations=12 --durations-min=1 -m clusters \
        ${LLMLAB_CLUSTER_TESTS:+-k "$LLMLAB_CLUSTER_TESTS"} "$@"
}

# start LOG COMMAND ...: start a program in the background, to be ended at the end.
start() {
    local log=$1
    shift
    "$@" >"$work/$log" 2>&1 &
    at_end+=("kill $! && wait $!")
}

# namespaces: two network namespaces with addresses 10.77.0.2 and 10.77.0.3 beside the host's
# 10.77.0.1; sets LLMLAB_NAMESPACES. Leaves it empty where the machine has none.
namespaces() {
    export LLMLAB_NAMESPACES=
    local own=$$ number
    packages iproute2 && ip netns add "llmlab$own-2" 2>/dev/null || return 0
    at_end+=("ip netns del llmlab$own-2; ip netns del llmlab$own-3; ip link del llb$own")
    ip netns add "llmlab$own-3"
    ip link add "llb$own" type bridge && ip addr add 10.77.0.1/24 dev "llb$own" &&
        ip link set "llb$own" up || return 0
    for number in 2 3; do
        ip link add "ll$own-$number" type veth peer name eth0 netns "llmlab$own-$number" || return 0
        ip link set "ll$own-$number" master "llb$own" up
        ip -n "llmlab$own-$number" addr add "10.77.0.$number/24" dev eth0
        ip -n "llmlab$own-$number" link set eth0 up
        ip -n "llmlab$own-$number" link set lo up
    done
    LLMLAB_NAMESPACES="llmlab$own-2 llmlab$own-3"
}

# One function for each engine: install, start, export where it is, run its tests.

joblib() {
    say "joblib"
    python joblib
    tests tests/clusters/test_joblib.py
}

slurm() {
    say "SLURM"
    packages slurm-wlm munge || { echo "skipped: no root to install slurm-wlm and munge" && return; }
    python slurm
    local here=$work/slurm me
    me=$(id -un)
    mkdir -p "$here/state" "$here/spool"
    head -c 1024 /dev/urandom >"$here/munge.key"
    chmod 700 "$here"
    chmod 400 "$here/munge.key"
    start munged.out /usr/sbin/munged --foreground --force --socket="$here/munge.socket" \
        --key-file="$here/munge.key" --pid-file="$here/munge.pid" \
        --log-file="$here/munge.log" --seed-file="$here/munge.seed"
    # cred_expire is also how long a requeued job waits; the default is two
    # minutes, the least 5 s.
    cat >"$here/slurm.conf" <<CONF
ClusterName=llmlab
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=$me
SlurmdUser=$me
SlurmctldPort=17817
SlurmdPort=17818
AuthType=auth/munge
AuthInfo=socket=$here/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=10
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=6 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 State=UP
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
CONF
    export SLURM_CONF=$here/slurm.conf
    start slurmctld.out /usr/sbin/slurmctld -D
    start slurmd.out /usr/sbin/slurmd -D
    local wait
    for wait in $(seq 60); do
        [ "$(sinfo -h -p low -o %T 2>/dev/null)" = idle ] && break
        sleep 0.25
    done
    LLMLAB_SLURM=1 tests tests/clusters/test_slurm.py
}

dask() {
    say "Dask"
    python dask
    namespaces
    tests tests/clusters/test_dask.py
}

ray() {
    say "Ray"
    python ray search # best alone: its plug-in wants another cloudpickle than joblib and Dask
    namespaces
    tests tests/clusters/test_ray.py
}

mpi() {
    say "MPI"
    packages openmpi-bin || command -v mpirun >/dev/null ||
        { echo "skipped: no mpirun, and no root to install openmpi-bin" && return; }
    python mpi
    "$python" -m pytest -q -n0 -rs -m slow tests/train/test_mpi.py
}

search() {
    say "search"
    python search
    "$python" tests/support/search_kill.py --trials 20 --kills 5
    "$python" tests/support/search_kill.py --workers 4 --trials 16 --kills 3
}

postgresql() {
    say "PostgreSQL"
    packages postgresql || { echo "skipped: no root to install postgresql" && return; }
    python postgresql
    "$python" tests/support/search_kill.py --workers 4 --trials 16 --kills 3 --postgresql
}

for engine in "${engines[@]}"; do
    "$engine"
done
say "clusters: all passed"
