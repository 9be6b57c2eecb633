#!/usr/bin/env bash
# One sweep as one MPI job, one rank a GPU.
#
#   sbatch slurm/a100_sweep.sh                                      sweeps/gptq.toml
#   SWEEP=sweeps/quick.toml sbatch slurm/a100_sweep.sh              another sweep
#   SWEEP=... sbatch --gpus-per-node=4 --ntasks-per-node=4 slurm/a100_sweep.sh
#   ARGS="--limit 100" sbatch ...                                   further options
#
# Five minutes before the time limit Slurm signals this script; the program then hands out no more
# jobs, finishes what runs and leaves with 75, and the job is queued again and goes on.
#SBATCH --job-name=llq_sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=a100:8
#SBATCH --gpu-bind=none
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u
export LLQ_SLURM_ARCH=80

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2
. slurm/run_sweep.sh
exit "$status"
