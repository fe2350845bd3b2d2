#!/usr/bin/env bash
# Installs cotree and its CPU dependencies into a virtual environment (default: .venv).
#
#   scripts/install_cpu.sh        COTREE_VENV=/elsewhere and PYTHON=python3.12 change the defaults
#
# The pins in requirements-cpu.txt go in without dependency resolution, because resolving would add
# torchvision, torchaudio and torchcodec built for CUDA, and any one of them beside a CPU torch
# breaks `import vllm` (DECISIONS.md, 7). A second run with the same pins does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${COTREE_VENV:-$PWD/.venv}
torch_index=https://download.pytorch.org/whl/cpu

say() { printf '%s\n' "$*" >&2; }
refuse() { say "install_cpu.sh: $*"; exit 2; }

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || refuse \
  "requirements-cpu.txt pins Linux x86_64 wheels and this is $(uname -s) $(uname -m)." \
  "Use a Linux x86_64 machine or container; for a GPU machine: pip install '.[gpu]'."

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
supported() { [[ $(python_version "$1") =~ ^3\.1[12]$ ]]; }

find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    supported "$PYTHON" || refuse "PYTHON=$PYTHON is Python $(python_version "$PYTHON" || echo '(does not run)');" \
      "cotree needs 3.11 or 3.12. Point PYTHON at one of them."
    printf '%s' "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3.11 python3.12 python3; do
    if supported "$candidate"; then printf '%s' "$candidate"; return; fi
  done
  refuse "no Python 3.11 or 3.12 among python3.11, python3.12, python3 (the last is" \
    "$(python_version python3 || echo missing)). Install one (Debian, Ubuntu: apt-get install python3.11" \
    "python3.11-venv; anywhere: uv python install 3.11) and set PYTHON to it."
}

# Whatever decides what is installed, so that a change of any of it installs again.
stamp_of() { cat requirements-cpu.txt pyproject.toml <(printf '%s\n' "$PWD") | sha256sum | cut -d' ' -f1; }

stamp_file=$venv/.cotree-installed
stamp=$(stamp_of)
if [[ -x $venv/bin/cotree && -f $stamp_file && $(<"$stamp_file") == "$stamp" ]]; then
  say "Already installed in $venv (delete it to start over)."
  exit 0
fi

if [[ -x $venv/bin/python ]]; then
  supported "$venv/bin/python" || refuse "$venv holds Python $(python_version "$venv/bin/python" || echo '(broken)');" \
    "cotree needs 3.11 or 3.12. Delete it or set COTREE_VENV to another folder."
else
  python=$(find_python)
  say "Creating $venv with $python ($(python_version "$python"))"
  "$python" -m venv "$venv" || refuse "$python -m venv failed. On Debian and Ubuntu the module is a package of" \
    "its own: apt-get install python$(python_version "$python")-venv."
fi
rm -f "$stamp_file"
"$venv/bin/python" -m uv --version >/dev/null 2>&1 || "$venv/bin/python" -m pip install --quiet uv

# uv reads none of pip's settings. Machines that keep wheels in a folder or use a mirror have told
# pip so; pip separates by blanks, uv by commas.
pip_setting() {  # pip_setting NAME: from the environment, else from pip's configuration files
  local variable=PIP_${1^^}
  variable=${variable//-/_}
  if [[ -n ${!variable:-} ]]; then printf '%s' "${!variable}"; return; fi
  "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true
}
if [[ -z ${UV_FIND_LINKS:-} ]]; then
  links=$(pip_setting find-links | xargs | tr ' ' ',')
  if [[ -n $links ]]; then export UV_FIND_LINKS=$links; fi
fi
if [[ -z ${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-} ]]; then
  index=$(pip_setting index-url)
  if [[ -n $index ]]; then export UV_DEFAULT_INDEX=$index; fi
fi

uv_install() { "$venv/bin/python" -m uv pip install --quiet --no-sources --no-deps --python "$venv/bin/python" "$@"; }

# The CPU build of torch is on PyTorch's own index alone. It is asked only when no configured place
# has the wheel, and with short limits, since without a network each retry costs a minute.
torch=$(grep -E '^torch==' requirements-cpu.txt) || refuse "requirements-cpu.txt pins no torch; run scripts/lock_cpu.sh."
if ! uv_install --dry-run "$torch" 2>/dev/null; then
  say "Fetching $torch from $torch_index"
  UV_FIND_LINKS='' UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-30} UV_HTTP_RETRIES=${UV_HTTP_RETRIES:-1} \
    uv_install --default-index "$torch_index" "$torch" || refuse \
    "no wheel of $torch for Python $(python_version "$venv/bin/python"), neither in the configured places" \
    "(find-links: ${UV_FIND_LINKS:-none}) nor at $torch_index. Check the network, or put the wheel into a" \
    "folder and set PIP_FIND_LINKS to it."
fi
say "Installing $(grep -c '==' requirements-cpu.txt) pinned packages into $venv"
uv_install -r requirements-cpu.txt
uv_install -e .

# A CUDA-built torchvision from an earlier install would break the engine's import.
leftovers=$("$venv/bin/python" -m uv pip list --quiet --python "$venv/bin/python" --format freeze | cut -d= -f1 | grep -xFf scripts/cpu-excludes.txt || true)
if [[ -n $leftovers ]]; then
  # shellcheck disable=SC2086  # one word per package is what uv wants
  "$venv/bin/python" -m uv pip uninstall --quiet --python "$venv/bin/python" $leftovers
  say "Removed $(xargs <<<"$leftovers"): they break 'import vllm' beside a CPU torch."
fi

printf '%s' "$stamp" >"$stamp_file"
say "Installed. Activate it with: source $venv/bin/activate"
