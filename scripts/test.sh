#!/usr/bin/env bash
# Everything that must pass before a change lands: lint, types, the default tests.
#
#   scripts/test.sh [pytest options, such as -k loss, -m e2e, -m slow, -m gpu]
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_cpu.sh
export PATH=${COTREE_VENV:-$PWD/.venv}/bin:$PATH HF_HUB_OFFLINE=1

scripts/check.sh
# exec: pytest's summary is the last line, its exit code is this script's.
exec python -m pytest "$@"
