# Sourced by the batch scripts: set-up, start, signals, requeue.  Not to be run by itself.

[ -f slurm/site.env ] && . slurm/site.env || . slurm/site.env.example
site_setup

sweep=${SWEEP:-sweeps/gptq.toml}
if [ ! -f "$sweep" ]; then
    echo "slurm: $sweep: no such sweep file (SWEEP=FILE sbatch ...)" >&2
    exit 2
fi
mkdir -p "$SITE_RESULTS" || exit 2
output=${OUTPUT:-$SITE_RESULTS/$(basename "$sweep" .toml)-${SLURM_JOB_ID:-local}.h5}

# After a requeue the journal is there: go on from it.
resume=
[ -e "$output.journal" ] && resume=--resume

# Slurm's signal reaches only this shell, and a trap runs only once the foreground child has ended:
# so mpirun runs in the background, and USR1 is passed on (mpirun hands it to the ranks).
$SITE_MPIRUN ./llq_sweep $resume -o "$output" ${ARGS:-} "$sweep" &
pid=$!
trap 'kill -USR1 $pid 2>/dev/null' USR1
trap 'kill -TERM $pid 2>/dev/null' TERM INT

status=0
while :; do
    wait $pid
    status=$?
    kill -0 $pid 2>/dev/null || break
done

# mpirun may hide the program's own exit code; the status file has it.
said=$(sed -n 's/.*exit=\([0-9]*\).*/\1/p' "$output.status" 2>/dev/null)
[ -n "$said" ] && status=$said
if [ "$status" = 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    echo "slurm: stopped early, $output can be resumed; queueing again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
