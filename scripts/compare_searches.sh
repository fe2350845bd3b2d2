#!/usr/bin/env bash
# Which search strategy helps, at equal generated tokens? One model, one task, several strategies.
#
#   bash scripts/compare_searches.sh MODEL TASK BUDGET_TOKENS OUT [OPTION…]
#
# The options go to every `cotree search`: --limit 200, --max-tokens 110, -k 3, --prompt boxed, ….
# STRATEGIES in the environment chooses others. Run again, it continues what was interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 4 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
model=$1 task=$2 budget=$3 out=$4
shift 4
export PATH=${COTREE_VENV:-$PWD/.venv}/bin:$PATH HF_HUB_OFFLINE=1

# The first one is the baseline of the page.
strategies=${STRATEGIES:-majority best-of vetoed-majority resample-whole dfs:votes=none puct beam dvts particles}

runs=()
for strategy in $strategies; do
    run=$out/${strategy//[:=,]/-}
    runs+=("$run")
    if [ ! -f "$run/search.json" ]; then
        cotree search "$model" --task "$task" --strategy "$strategy" --budget-tokens "$budget" \
            --output "$run" --resume "$@"
    fi
done
cotree tree curves "${runs[@]}" --output "$out/curves.html"
cotree tree curves "${runs[@]}" --output "$out/curves.html" --json >"$out/curves.json"
