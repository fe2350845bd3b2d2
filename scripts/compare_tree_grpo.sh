#!/usr/bin/env bash
# Do rollout trees help GRPO? The quickstart from one cold start, flat groups against trees, three
# seeds each, at equal generated tokens.
#
#   bash scripts/compare_tree_grpo.sh [RUNS_FOLDER]      about 30 minutes on 2 cores
#
# A group has 16 leaves in both arms. Leaves of a tree share prefixes, so trees get more prompts a
# step. With 56, as in docs/search.md, they generated 15 % more tokens in 60 steps than 32 flat ones did;
# the 49 here are reckoned from that. The lines that it prints have what was really generated.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-runs/tree_grpo}
export PATH=${COTREE_VENV:-$PWD/.venv}/bin:$PATH HF_HUB_OFFLINE=1

arm() { # NAME SEED [--set KEY=VALUE ...]
    local out=$runs/$1-$2 seed=$2
    shift 2
    local options=(configs/quickstart.toml --set "output_dir=$out" --set "seed=$seed"
        --set evaluate.num_problems=1000 --set train.evaluate_every=10 "$@")
    if ! grep -qs accuracy_after "$out/result.json"; then
        mkdir -p "$out"
        [ -d "$out/sft" ] || cp -r "$runs/cold-start/base" "$runs/cold-start/sft" "$out/"
        cotree train "${options[@]}" --resume
    fi
    python - "$out" <<'PYTHON'
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
found = json.loads((run / "result.json").read_text())
rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
tokens = sum(row.get("sampling/generated_tokens", 0) for row in rows)
curve, told = [], 0
for row in rows:
    told += row.get("sampling/generated_tokens", 0)
    if "eval/accuracy" in row:
        curve.append(f"{told / 1e3:.0f}k {row['eval/accuracy']:.1%}")
seconds = found["seconds"]["train"]
after = found["accuracy_after"]["value"]
print(f"{run.name:12} {after:.1%} after {tokens:,.0f} tokens, {seconds:.0f} s: {', '.join(curve)}")
PYTHON
}

[ -d "$runs/cold-start/sft/model" ] ||
    cotree sft configs/quickstart.toml --resume --set "output_dir=$runs/cold-start"
trees='{type = "tree", chains = 4, points = 1, forks = 3, branch = "entropy", max_tokens = 110}'
for seed in 0 1 2; do
    arm flat $seed
    arm tree $seed --set "train.rollout=$trees" --set train.prompts_per_step=49 \
        --set 'train.advantage={tree = "tree_grpo", process_coef = 0.5, process_discount = 0.0}' \
        --set learner.share_prefixes=true
done
