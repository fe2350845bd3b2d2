#!/usr/bin/env bash
# Do step rewards help? Three arms of the quickstart from one cold start, three seeds each.
#
#   bash scripts/compare_step_rewards.sh [RUNS_FOLDER]      about 40 minutes on 2 cores
#
# outcome-only: the steps are judged and logged, but worth nothing. steps: as the quickstart has it.
# within-outcome: steps are compared among right rollouts and among wrong ones, never across.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-runs/step_rewards}
export PATH=${COTREE_VENV:-$PWD/.venv}/bin:$PATH HF_HUB_OFFLINE=1

arm() { # NAME SEED [--set KEY=VALUE ...]
    local out=$runs/$1-$2 seed=$2
    shift 2
    local options=(configs/quickstart.toml --set "output_dir=$out" --set "seed=$seed"
        --set evaluate.num_problems=1000 "$@")
    if [ ! -f "$out/greedy.json" ]; then
        mkdir -p "$out"
        cp -r "$runs/cold-start/base" "$runs/cold-start/sft" "$out/"
        cotree train "${options[@]}" --resume
        cotree evaluate "${options[@]}" --set evaluate.temperature=0 --json >"$out/greedy.json.part"
        mv "$out/greedy.json.part" "$out/greedy.json"
    fi
    python - "$out" <<'PYTHON'
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
sampled = json.loads((run / "result.json").read_text())["accuracy_after"]["value"]
greedy = json.loads((run / "greedy.json").read_text())["accuracy"]["value"]
print(f"{run.name:20} sampled {sampled:.1%}  greedy {greedy:.1%}")
PYTHON
}

cotree sft configs/quickstart.toml --resume --set "output_dir=$runs/cold-start"
for seed in 0 1 2; do
    arm outcome-only $seed --set rewards.1.weight=0 --set train.advantage='{}'
    arm steps $seed
    arm within-outcome $seed --set train.advantage.process_baseline=outcome
done
