#!/usr/bin/env bash
# Lint, format, spelling and types. Usage: scripts/check.sh (with the environment activated).
set -euo pipefail
cd "$(dirname "$0")/.."

ruff check .
ruff format --check .
codespell .

# The type checker needs the import names, and does not follow links: check a copy, outside the root,
# where no tool recurses into it.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/cotree"
cp -r grpo rewards search kernels "$tree/cotree/"
cp pyproject.toml "$tree/"
cd "$tree"
basedpyright --stats --pythonpath "$(command -v python)" cotree | tee types.log
# A checker that found nothing to check has not passed.
grep -Eq 'Total files checked: [1-9]' types.log
