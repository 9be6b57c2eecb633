#!/usr/bin/env bash
# The demo sweep on cores alone: whether this site's set-up works, in a minute.
#
#   sbatch slurm/cpu_test.sh
#SBATCH --job-name=llq_cpu_test
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --time=00:10:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u
SWEEP=${SWEEP:-sweeps/demo.toml}
ARGS="--backend cpu ${ARGS:-}"

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2
. slurm/run_sweep.sh
exit "$status"
