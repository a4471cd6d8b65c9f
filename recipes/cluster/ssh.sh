#!/bin/bash
# One training run on several machines that you can log in to without a password, the first of which is this one.
# The clone must be at the same path on all of them, with the same environment, model cache and data:
#
# HOSTS="node1 node2" recipes/cluster/ssh.sh --config recipes/qwen2.5-7b/sft/config_full.yaml data.train='[{path: runs/NAME/dataset/train.parquet}]' train.gradient_accumulation_steps=4
#
# LAUNCH (default recipes/accelerate/zero2.yaml), GPUS (a machine, default 8), PORT and ACTIVATE (what each machine runs
# first, default `. .venv/bin/activate`) can be set in the environment. When one machine fails, all are stopped.
set -euo pipefail

read -r -a hosts <<< "${HOSTS:?set HOSTS to the names of the machines, this one first}"
launch=${LAUNCH:-recipes/accelerate/zero2.yaml} gpus=${GPUS:-8} port=${PORT:-29500}
started=()
trap 'kill "${started[@]}" 2> /dev/null || true' EXIT

for rank in "${!hosts[@]}"; do
    command=(accelerate launch --config_file "$launch"
        --num_machines "${#hosts[@]}" --num_processes "$((${#hosts[@]} * gpus))"
        --machine_rank "$rank" --main_process_ip "${hosts[0]}" --main_process_port "$port"
        --rdzv_backend static --deepspeed_multinode_launcher standard train.py "$@")
    printf -v line ' %q' "${command[@]}"
    # -tt: stopping this script also stops the processes on the other machines.
    ssh -tt "${hosts[$rank]}" "cd $(printf %q "$PWD") && ${ACTIVATE:-. .venv/bin/activate} && exec$line" &
    started+=($!)
done
for _ in "${hosts[@]}"; do wait -n; done
