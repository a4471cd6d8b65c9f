#!/bin/bash
# Run one synthesis as many shards under Slurm: an array task a shard, each with its own run name and seed.
# From the clone's folder, which every machine must see (as it must see the model cache):
#
# sbatch --array=0-99%32 recipes/cluster/shards.sh recipes/synthesis/paper-alpaca.yaml big seeds.limit=2000
#
# makes runs/big-0 to runs/big-99; `gra merge runs/big runs/big-*` makes one dataset of them. A shard works on the
# node's own disk (LOCAL, default $TMPDIR), because the ledger's journal needs one, and its folder comes back to RUNS
# (default runs) at the end and when Slurm warns of the time limit. Submit the same line again to go on: finished shards
# are skipped, others resume from what came back.
#SBATCH --job-name gra-shard
#SBATCH --gpus 1
#SBATCH --cpus-per-task 8
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -euo pipefail

recipe=$1 name=$2-$SLURM_ARRAY_TASK_ID
shift 2
kept=${RUNS:-runs}/$name
copy=${RUNS:-runs}/.$name.new
local=${LOCAL:-${TMPDIR:-/tmp}}/gra-$name
mkdir -p "$(dirname "$kept")" "$local"
[ -e "$kept" ] || [ ! -e "$copy" ] || mv "$copy" "$kept" # the last task was ended between two steps below
# A folder that an earlier task could not copy back counts only where it is newer.
if [ -e "$kept" ] && ! [ "$local/$name/log.jsonl" -nt "$kept/log.jsonl" ]; then
    rm -rf "${local:?}/$name" && cp -a "$kept" "$local/$name"
fi

bring_back() {
    # Copied beside, then moved: an incomplete copy must not replace the folder.
    [ -e "$local/$name" ] || return 0 # nothing was begun
    rm -rf "$copy" && cp -a "$local/$name" "$copy" && rm -rf "$kept" && mv "$copy" "$kept" && rm -rf "$local"
}

gra synthesize "$recipe" "name=$name" "seed=$SLURM_ARRAY_TASK_ID" "$@" --runs "$local" &
child=$!
trap 'kill -TERM $child' TERM # a run that gets SIGTERM ends by itself and can be resumed
while :; do
    wait $child && status=0 || status=$?
    kill -0 $child 2>/dev/null || break
done
bring_back
exit $status
