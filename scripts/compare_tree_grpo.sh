#!/usr/bin/env bash
# Do rollout trees help GRPO? The quickstart from one cold start, flat groups against trees that
# generate as many tokens, three seeds each.
#
#   bash scripts/compare_tree_grpo.sh [RUNS_FOLDER]      about 30 minutes on 2 cores
#
# A group has 16 leaves in every arm. A leaf of a tree costs only what its prefix does not have, so
# the trees' arms take more prompts a step, until all arms generate the same number of tokens.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-runs/tree_grpo}
export PATH=${COTREE_VENV:-$PWD/.venv}/bin:$PATH HF_HUB_OFFLINE=1
