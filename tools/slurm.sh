#!/usr/bin/env bash
# A real SLURM of one node, for the tests with the mark `slurm`. Everything of it lies in one folder: configuration,
# key, sockets, state, logs. Any user can run it; root is only needed to install the packages.
#
#   apt-get install --no-install-recommends slurm-wlm munge
#   tools/slurm.sh start FOLDER
#   SLURM_CONF=FOLDER/slurm.conf pytest -m slurm
#   tools/slurm.sh stop FOLDER
#
# `status` shows the node and the queue. FOLDER is at most 80 characters long: it holds a socket.
set -euo pipefail
export PATH="$PATH:/usr/sbin"

usage() {
    echo "usage: tools/slurm.sh start|stop|status FOLDER" >&2
    exit 2
}

fail() {
    echo "slurm.sh: $1" >&2
    exit 1
}

[ $# -eq 2 ] || usage
folder=$(realpath -m "$2")
export SLURM_CONF="$folder/slurm.conf"

# Two ports that nothing listens on; others may run a SLURM on the usual ones.
free_ports() {
    python3 -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))'
}

configure() {
    local host cores memory ports
    host=$(hostname -s)
    cores=$(nproc)
    memory=$(awk '/^MemTotal:/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
    read -r -a ports < <(free_ports)
    # cred_expire: a requeued job waits until its old credential has expired: 120 s, at least 5.
    cat >"$SLURM_CONF" <<CONF
ClusterName=vidssl
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

running() {
    [ -s "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid")" 2>/dev/null
}

start() {
    for program in munged slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null || fail "$program is missing: apt-get install slurm-wlm munge"
    done
    [ "${#folder}" -le 80 ] || fail "$folder is longer than 80 characters"
    running slurmctld && fail "it runs already in $folder"
    mkdir -p "$folder/state" "$folder/spool"
    chmod 700 "$folder"
    configure
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    # --force: /tmp above the folder may be writable by all; the folder itself is not.
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" 2>>"$folder/munged.log"
    slurmctld
    slurmd
    for _ in $(seq 600); do
        if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
            echo "SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.1
    done
    tail -n 5 "$folder"/*.log >&2
    stop
    fail "the node is not idle after 60 s"
}

stop() {
    local pid
    running slurmctld && scancel --user="$(id -un)" || true
    for program in slurmd slurmctld munged; do
        running "$program" || continue
        pid=$(cat "$folder/$program.pid") # it removes the file before it ends
        kill "$pid"
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || continue 2
            sleep 0.1
        done
        fail "$program does not end (process $pid)"
    done
}

case "$1" in
    start) start ;;
    stop) stop ;;
    status) sinfo && squeue ;;
    *) usage ;;
esac
