#!/usr/bin/env bash
# One sweep as a job array: each task runs every N-th job by itself, on one GPU, whenever one is
# free; the last one to finish joins the parts.
#
#   SWEEP=sweeps/hyperparam.toml sbatch --array=1-16 slurm/array.sh
#
# Parts are results/NAME-ARRAYJOB-part-I.h5, the whole is results/NAME-ARRAYJOB.h5.
#SBATCH --job-name=llq_sweep
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
set -u

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2
if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    echo "slurm: array.sh is for job arrays: sbatch --array=1-N slurm/array.sh" >&2
    exit 2
fi
n=$SLURM_ARRAY_TASK_COUNT
i=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))
if [ $((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1)) != "$n" ]; then
    echo "slurm: array.sh needs tasks without gaps: --array=1-$n" >&2
    exit 2
fi
shard=$i/$n
[ -f slurm/site.env ] && . slurm/site.env || . slurm/site.env.example
whole=$SITE_RESULTS/$(basename "${SWEEP:-sweeps/gptq.toml}" .toml)-$SLURM_ARRAY_JOB_ID
output=$whole-part-$i.h5
. slurm/run_sweep.sh

# Whoever finds all parts finished joins them; of two that do, one.
parts=
for k in $(seq "$n"); do
    [ "$(status_of "$whole-part-$k.h5" state)" = finished ] || exit "$status"
    parts="$parts $whole-part-$k.h5"
done
mkdir "$whole.joining" 2>/dev/null || exit "$status"
./llq_sweep --merge "$whole.h5" $parts --force && ./llq_sweep --report "$whole.h5"
rmdir "$whole.joining"
exit "$status"
