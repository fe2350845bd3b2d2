#!/usr/bin/env bash
# Runs a stage as a Ray job, on a head node that it starts when there is none.
#
#   scripts/submit.sh [sft|distill|train|evaluate] CONFIG [options of that command]    (default: train)
#   scripts/submit.sh evaluate MODEL --benchmarks A,B [options]
#   scripts/submit.sh search MODEL --task A --strategy S --budget-tokens N [options]
#   scripts/submit.sh list | logs JOB | cancel JOB
#   scripts/submit.sh stop                   stops the head that this script started, and no other
#
# A Ray head accepts jobs, so whoever reaches its ports can run any command as you (CVE-2023-48022).
# Its ports listen on all interfaces whatever address it is given; the token is the only guard. This
# script therefore starts no head without one, and submits nothing to a head that asks for none.
# COTREE_DASHBOARD_PORT (8265) and COTREE_RAY_PORT (6379) change the ports.
set -euo pipefail
cd "$(dirname "$0")/.."

dashboard_port=${COTREE_DASHBOARD_PORT:-8265}
ray_port=${COTREE_RAY_PORT:-6379}
address=http://127.0.0.1:$dashboard_port
# Not under the root: Ray puts Unix sockets there, whose paths may have 107 characters at most.
state=${TMPDIR:-/tmp}/cotree-ray-$UID-$ray_port
venv=${COTREE_VENV:-$PWD/.venv}
if [[ -x $venv/bin/ray ]]; then export PATH=$venv/bin:$PATH; fi  # a job uses the head's PATH
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

refuse() { printf 'submit.sh: %s\n' "$*" >&2; exit 2; }
usage() { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
command -v ray >/dev/null || refuse "ray is not installed in $venv nor on the PATH; run scripts/install_cpu.sh first."

# HTTP status of the job API; 000 when nothing listens. `--noproxy`: this is always the loopback.
job_api_status() {  # job_api_status [TOKEN]
  python - "$address/api/jobs/" "${1:-}" <<'PY'
import sys
import urllib.error
import urllib.request

url, token = sys.argv[1:]
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    print(opener.open(request, timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print("000")
PY
}

# The token is read by name from its file or from RAY_AUTH_TOKEN by Ray itself; never printed here.
require_token() {
  [[ -z ${RAY_AUTH_TOKEN:-} ]] || return 0
  local file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
  [[ -s $file ]] || (umask 077 && ray get-auth-token --generate >/dev/null) ||
    refuse "no token in $file and none could be made; a head without one would run anybody's commands."
  [[ -s $file && -O $file ]] || refuse "$file is missing, empty or not yours; remove it or set RAY_AUTH_TOKEN_PATH."
  chmod 600 "$file"
}

is_our_head() {  # the process in the file is still the head that was started, not a reuse of its number
  [[ -f $state/head.pid ]] && tr '\0' ' ' <"/proc/$(<"$state/head.pid")/cmdline" 2>/dev/null | grep -qF -- "--temp-dir=$state/ray"
}

start_head() {
  is_our_head && refuse "the head in $state runs but $address does not answer; see $state/head.log or run: $0 stop"
  rm -rf "$state"
  (umask 077 && mkdir -p "$state")
  echo "Starting a Ray head: dashboard $address, log $state/head.log"
  # --block: one process that owns all of Ray's others, and ends them when it is ended.
  # The agent runs the jobs. At its usual port it would not start beside another Ray, of any run here.
  setsid nohup ray start --head --block --port="$ray_port" --dashboard-host=127.0.0.1 \
    --dashboard-port="$dashboard_port" --dashboard-agent-listen-port=0 --temp-dir="$state/ray" --disable-usage-stats \
    >"$state/head.log" 2>&1 </dev/null &
  echo $! >"$state/head.pid"
  local second
  for second in {1..60}; do
    [[ $(job_api_status) == 401 ]] && return
    is_our_head || break
    sleep 1
  done
  tail -n 20 "$state/head.log" >&2
  stop_head
  refuse "the head did not answer with 401 (token needed) at $address within ${second} s; its log is above."
}

stop_head() {
  local pid round
  if ! is_our_head; then echo "No head started by this script is running on port $ray_port."; return; fi
  pid=$(<"$state/head.pid")
  kill -TERM "$pid"
  # What outlives the head (its agents can, for a minute) is known by its folder.
  for round in {1..20}; do
    mapfile -t rest < <(pgrep -u "$UID" -f -- "$state/ray" || true)
    [[ ${#rest[@]} -gt 0 ]] || break
    if ((round == 10)); then kill -TERM "${rest[@]}" 2>/dev/null || true; fi
    if ((round == 20)); then kill -KILL "${rest[@]}" 2>/dev/null || true; fi
    sleep 0.5
  done
  rm -rf "$state"
  echo "Stopped the head on port $ray_port."
}

# A job runs in a copy of this folder without what git ignores, so paths into runs/ and models/ must
# be absolute: those in the file become so here, those given with --set have to be. Prints
# `--set key=value` arguments, one word a line.
absolute_paths() {
  python - "$1" <<'PY'
import json
import sys
import tomllib
from pathlib import Path

file = Path(sys.argv[1])
config = tomllib.loads(file.read_text())
output = config.get("output_dir", f"runs/{file.stem}")
settings = {"output_dir": Path(output).absolute()}
teacher = ("distill.teacher.path", "distill.teacher.tokenizer", "distill.store")
texts = ("sft.traces.path", "distill.corpus.path")
for key in ("model.path", "task.train", "task.test", *teacher, *texts):
    value = config
    for part in key.split("."):
        value = value.get(part, {})
    if value and Path(value).exists():
        settings[key] = Path(value).absolute()
for key, path in settings.items():
    print(f"--set\n{key}={json.dumps(str(path))}")
PY
}

# The same for a model and the folders among the options of `cotree evaluate` and `cotree search`,
# whose name comes first. Prints the arguments, one word a line.
absolute_arguments() {
  python - "$@" <<'PY'
import sys
from pathlib import Path

stage, model, *options = sys.argv[1:]
if Path(model).exists():
    model = str(Path(model).absolute())
for index, option in enumerate(options[:-1]):
    if option in ("--data", "--output"):
        options[index + 1] = str(Path(options[index + 1]).absolute())
if "--output" not in options:
    output = Path("runs", stage, "-".join(Path(model).parts[-2:]))
    if stage == "search" and "--strategy" in options[:-1]:
        output /= options[options.index("--strategy") + 1].replace("/", "_")
    options += ["--output", str(output.absolute())]
print(*[model, *options], sep="\n")
PY
}

submit() {  # submit STAGE CONFIG OPTIONS..., or submit evaluate|search MODEL OPTIONS...
  local stage=$1 config=$2
  shift 2
  [[ -f $config || ($stage == @(evaluate|search) && $config != *.toml) ]] || refuse "$config is not a file."
  require_token
  case $(job_api_status) in
    000) start_head ;;
    401) echo "Using the Ray head at $address" ;;
    *) refuse "what answers at $address asks for no token. Stop it, or set COTREE_DASHBOARD_PORT and COTREE_RAY_PORT to free ports." ;;
  esac
  local settings job
  if [[ -f $config ]]; then
    mapfile -t settings < <(absolute_paths "$config")
    set -- "$config" "${settings[@]}" "$@"
  else
    mapfile -t settings < <(absolute_arguments "$stage" "$config" "$@")
    set -- "${settings[@]}"
  fi
  job=cotree-$stage-$(date +%Y%m%d-%H%M%S)
  cat <<USAGE
Job $job. Ctrl-C stops following it, not the job itself.
  follow again   $0 logs $job
  cancel         $0 cancel $job
  all jobs       $0 list
  stop Ray       $0 stop
USAGE
  exec ray job submit --address "$address" --submission-id "$job" --working-dir . -- \
    cotree "$stage" "$@"
}

case "${1:-}" in
  list) exec ray job list --address "$address" ;;
  logs) [[ $# == 2 ]] || usage; exec ray job logs --address "$address" --follow "$2" ;;
  cancel) [[ $# == 2 ]] || usage; exec ray job stop --address "$address" "$2" ;;
  stop) stop_head ;;
  sft | distill | train | evaluate | search) [[ $# -ge 2 ]] || usage; submit "$@" ;;
  '' | -*) usage ;;
  *) submit train "$@" ;;
esac
