#!/usr/bin/env bash
# Lint, format, spelling and types. Usage: scripts/check.sh (with the environment activated).
set -euo pipefail
cd "$(dirname "$0")/.."

ruff check .
ruff format --check .
codespell .

# The type checker needs the import names; the links live outside the root, where no tool recurses.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/cotree"
for package in grpo rewards search kernels; do ln -s "$PWD/$package" "$tree/cotree/$package"; done
ln -s "$PWD/pyproject.toml" "$tree/pyproject.toml"
cd "$tree"
basedpyright --pythonpath "$(command -v python)" cotree
