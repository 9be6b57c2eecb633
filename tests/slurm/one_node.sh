# Sourced by the script beside it: a Slurm of one node in a folder of its own, with a key, ports and
# state that touch nobody else's.  As root, processes followed by linuxproc, no control groups.

slurm_missing() {
    for p in slurmctld slurmd sbatch munged; do
        command -v $p >/dev/null || { echo "$p is not installed (slurm-wlm, munge)"; return 0; }
    done
    [ "$(id -u)" = 0 ] || { echo "only root can start slurmd here"; return 0; }
    return 1
}

slurm_start() { # slurm_start FOLDER
    local d=$1 host
    host=$(hostname -s)
    mkdir -p "$d/state" "$d/spool" "$d/munge" && chmod 755 "$d"
    dd if=/dev/urandom of="$d/munge/key" bs=1024 count=1 2>/dev/null
    chmod 400 "$d/munge/key" && chmod 700 "$d/munge" && mkdir "$d/socket" && chmod 755 "$d/socket"
    munged --force --socket="$d/socket/munge" --key-file="$d/munge/key" --log-file="$d/munge/log" \
        --pid-file="$d/munge/pid" --seed-file="$d/munge/seed" || return 1
    local free=$((20000 + RANDOM % 20000))
    cat >"$d/slurm.conf" <<CONF
ClusterName=llqtest
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$free
SlurmdPort=$((free + 1))
AuthType=auth/munge
AuthInfo=socket=$d/socket/munge,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$d/state
SlurmdSpoolDir=$d/spool
SlurmctldPidFile=$d/slurmctld.pid
SlurmdPidFile=$d/slurmd.pid
SlurmctldLogFile=$d/slurmctld.log
SlurmdLogFile=$d/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000 Gres=gpu:h200:8 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
CONF
    # Stand-ins for devices: files that are there.
    for i in 0 1 2 3 4 5 6 7; do : >"$d/gpu$i"; done
    echo "Name=gpu Type=h200 File=$d/gpu[0-7]" >"$d/gres.conf"
    export SLURM_CONF=$d/slurm.conf
    slurmctld && slurmd || return 1
    for i in $(seq 60); do
        sinfo -h -o %t 2>/dev/null | grep -q '^idle' && return 0
        sleep 0.5
    done
    tail -n 5 "$d/slurmctld.log" "$d/slurmd.log" >&2
    return 1
}

slurm_stop() { # slurm_stop FOLDER
    scancel -f -u root 2>/dev/null
    sleep 1
    for p in slurmd slurmctld munge/; do
        [ -s "$1/${p}pid" ] && kill "$(cat "$1/${p}pid")" 2>/dev/null
        [ -s "$1/$p.pid" ] && kill "$(cat "$1/$p.pid")" 2>/dev/null
    done
    sleep 1
}
