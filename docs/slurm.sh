#!/bin/bash
# Pre-training on several machines. Submit it with what `ocl pretrain` is to be told:
#     OCL_BACKEND=cuda sbatch docs/slurm.sh --recipe imagenet-vit-l --data /datasets/imagenet
# Before its time is up the job is asked for a checkpoint, queued again, and goes on from there, on
# as many ranks as it then has. `srun --mpi=list` says which kinds of MPI there are; MPICH wants
# pmi2 in place of pmix.
#SBATCH --job-name=ocl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

run=${OCL_RUN:-runs/ocl-$SLURM_JOB_ID}
if [ -e "$run/plan.toml" ]; then
    command=(pretrain --resume "$run")
else
    command=(pretrain --out "$(dirname "$run")" --name "$(basename "$run")" "$@")
fi
# Without it Open MPI may wait for ever for a lock of a process that was killed.
export PMIX_MCA_gds=hash
export RAYON_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
srun --mpi="${OCL_MPI:-pmix}" --kill-on-bad-exit=1 \
    ocl "${command[@]}" --backend "${OCL_BACKEND:-flex}" --no-eval
code=$?
# 130: it was asked to stop, and is not done.
if [ "$code" = 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
