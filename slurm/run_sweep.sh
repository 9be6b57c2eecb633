# Sourced by the batch scripts: set-up, start, signals, requeue.  Not to be run by itself.
# They set `shard` and `output` where a job is a part of a sweep.

[ -f slurm/site.env ] && . slurm/site.env || . slurm/site.env.example
site_setup

sweep=${SWEEP:-sweeps/gptq.toml}
if [ ! -f "$sweep" ]; then
    echo "slurm: $sweep: no such sweep file (SWEEP=FILE sbatch ...)" >&2
    exit 2
fi
mkdir -p "$SITE_RESULTS" || exit 2
output=${output:-${OUTPUT:-$SITE_RESULTS/$(basename "$sweep" .toml)-${SLURM_JOB_ID:-local}.h5}}

# What scontrol calls this job: of an array, this task alone.
job=${SLURM_JOB_ID:-}
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

status_of() { # status_of FILE.h5 KEY: a word of its status file
    sed -n "s/.*$2=\([^ ]*\).*/\1/p" "$1.status" 2>/dev/null
}

jobs_done() { # by the journal: the status file may be behind it
    local n
    n=$(grep -c '"status":"success"' "$output.journal" 2>/dev/null)
    echo "${n:-0}"
}

# Slurm writes into the job's own log why it ends a job, and says it nowhere else in time.
log=$(scontrol show job "${job:-none}" 2>/dev/null | sed -n 's/^ *StdErr=//p' | head -1)
log_before=$(stat -c %s "$log" 2>/dev/null)
is_cancelled() { # by a person: not at the time limit, not for another job, no mere signal
    ! scontrol show job "$job" | grep -q 'JobState=RUNNING' &&
        [ -f "$log" ] && tail -c +$((${log_before:-0} + 1)) "$log" | grep -q 'CANCELLED AT [^ ]* \*\*\*'
}

# After a requeue the journal is there: go on from it.
resume=
[ -e "$output.journal" ] && resume=--resume
before=$(jobs_done)

# A copy of the model on every node's own disk: read from there, not by all nodes from one file server.
stage=
if [ -n "${SITE_SCRATCH:-}" ] && [ -n "${MODEL:-}" ]; then
    copy=$SITE_SCRATCH/$(basename "$MODEL")
    $SITE_EACH_NODE sh -c "mkdir -p '$copy' && cp -ruL '$MODEL/.' '$copy/'" || exit 2
    stage="--set model.path=$copy"
fi

# No job is started that cannot end before the allocation does.
limit= end=
if [ -n "${SLURM_JOB_ID:-}" ]; then
    end=${SLURM_JOB_END_TIME:-$(date -d "$(squeue -h -j "$job" -o %e 2>/dev/null)" +%s 2>/dev/null)}
    end=${end:-0}
    left=$((end - $(date +%s) - ${SITE_MARGIN:-60}))
    [ "$left" -gt 0 ] && limit="--time-limit $left"
fi

# Slurm's signal reaches only this shell, and a trap runs only once the foreground child has ended:
# so mpirun runs in the background, and USR1 is passed on (mpirun hands it to the ranks).
[ -z "${RANK_LOGS:-}" ] || SITE_MPIRUN="$SITE_MPIRUN --output-filename $output.ranks"
$SITE_MPIRUN ./llq_sweep $resume -o "$output" $limit ${shard:+--shard $shard} $stage ${ARGS:-} "$sweep" &
pid=$!
term=
trap 'echo "slurm: $(date +%T) USR1: no further job is started"; kill -USR1 $pid 2>/dev/null' USR1
# Slurm may have told all processes; a second TERM too soon would have mpirun kill the ranks.
trap 'echo "slurm: $(date +%T) TERM: leaving"; term=1; (sleep 2; kill -TERM $pid) 2>/dev/null &' TERM INT

# mpirun may stand still at its end, when a rank has died: the status file says that all is done.
(
    trap - USR1 TERM INT
    gone=0
    while [ $gone -lt 60 ]; do
        sleep 5
        kill -0 $pid 2>/dev/null || exit
        case $(status_of "$output" exit) in
        '' | -) gone=0 ;;
        *) [ -n "$(find "$output.status" -newer "$output.started" 2>/dev/null)" ] && gone=$((gone + 5)) ;;
        esac
    done
    kill -9 $pid
) &
guard=$!
: >"$output.started"

status=0
while :; do
    wait $pid
    status=$?
    kill -0 $pid 2>/dev/null || break
done
kill $guard 2>/dev/null

# mpirun may hide the program's own exit code; the status file has it.
said=
[ -n "$(find "$output.status" -newer "$output.started" 2>/dev/null)" ] && said=$(status_of "$output" exit)
rm -f "$output.started"
case $said in
'' | -) [ "$status" = 0 ] || [ "$status" = 2 ] || [ ! -e "$output.journal" ] || status=75 ;; # a rank died
*) status=$said ;;
esac

requeue() {
    echo "slurm: stopped early with $(jobs_done) jobs done, $output can be resumed; queueing again"
    scontrol requeue "$job"
}
if [ "$status" = 75 ] && [ -n "$job" ]; then
    # Preempted: again, whatever was done.  At the time limit: not for nothing.
    [ -n "$term" ] && [ "$end" -gt 0 ] && [ $(($(date +%s) + 30)) -ge "$end" ] && term=
    if is_cancelled; then
        echo "slurm: cancelled; go on with --resume -o $output"
    elif [ -n "$term" ] || [ "$(jobs_done)" != "$before" ]; then
        requeue
    else
        echo "slurm: a whole turn has finished no job: the time limit is too short for one; not queued again" >&2
    fi
fi
