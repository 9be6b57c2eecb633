#!/usr/bin/env bash
# One sweep as one MPI job over several nodes, one rank a GPU.
#
#   sbatch slurm/multi_node.sh                                       4 nodes of 8 GPUs
#   SWEEP=... sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 slurm/multi_node.sh
#   MODEL=/shared/models/Llama-3.1-8B SWEEP=... sbatch ...           with SITE_SCRATCH: copied to each node first
#
# Without Slurm, with a file that names the hosts ("node1 slots=8" a line):
#   mpirun --hostfile hosts --bind-to none --map-by ppr:8:node ./llq_sweep -o results.h5 SWEEP.toml
#SBATCH --job-name=llq_sweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --gpu-bind=none
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u
# What each rank prints itself, library messages too, in a folder beside the results.
RANK_LOGS=1

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2
. slurm/run_sweep.sh
exit "$status"
