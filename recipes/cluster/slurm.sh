#!/bin/bash
# One training run on several machines under Slurm: one launcher a machine, which starts one process a GPU.
# From the clone's folder, which every machine must see (as it must see the model cache and the data):
#
# sbatch --nodes 2 recipes/cluster/slurm.sh --config recipes/qwen2.5-7b/sft/config_full.yaml data.train='[{path: runs/NAME/dataset/train.parquet}]' train.gradient_accumulation_steps=4
#
# LAUNCH (default recipes/accelerate/zero2.yaml), GPUS (a machine, default 8) and PORT can be set in the environment.
# Run it again after a time-out: training goes on from the last whole checkpoint.
#SBATCH --job-name gra-train
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 64
#SBATCH --exclusive
#SBATCH --requeue
set -euo pipefail

export GRA_LAUNCH=${LAUNCH:-recipes/accelerate/zero2.yaml} GRA_GPUS=${GPUS:-8} GRA_PORT=${PORT:-29500}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export GRA_HEAD=${hosts%%$'\n'*}

# Expanded on each machine, where SLURM_NODEID is its rank.
exec srun bash -c 'exec accelerate launch --config_file "$GRA_LAUNCH" \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * GRA_GPUS))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$GRA_HEAD" --main_process_port "$GRA_PORT" \
    --rdzv_backend static --deepspeed_multinode_launcher standard train.py "$@"' gra "$@"
