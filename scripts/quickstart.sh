#!/usr/bin/env bash
# From a fresh checkout to a small model that has learned to reason, on a CPU, in one command.
#
#   scripts/quickstart.sh [--fresh]
#
# Asks nothing. Run again, it continues an unfinished run where that stopped, and shows the result of
# a finished one; --fresh deletes runs/quickstart first. Ctrl-C stops everything it started.
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/quickstart.toml
run=runs/quickstart
venv=${COTREE_VENV:-$PWD/.venv}

case "${1:-}" in
  '') ;;
  --fresh) rm -rf "$run" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# Children run in the background, so that a signal reaches this shell at once and not only after the
# stage has ended; a stage answers SIGTERM by stopping its actors and saying how to resume.
child=
stop() {
  trap '' INT TERM
  if [[ -n $child ]]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" || true
  fi
  printf '\nStopped. Run scripts/quickstart.sh again to continue.\n' >&2
  exit 130
}
trap stop INT TERM
stage() {
  "$@" &
  child=$!
  local code=0
  wait "$child" || code=$?
  child=
  return "$code"
}

now() { date +%s.%N; }
# Adds to seconds.NAME of the result: an interrupted and continued quickstart counts all its parts.
add_seconds() {  # add_seconds NAME SINCE
  "$venv/bin/python" - "$run/result.json" "$1" "$2" "$(now)" <<'PY'
import sys
from pathlib import Path

from cotree.grpo.result import add_seconds

result, name, since, until = sys.argv[1:]
add_seconds(Path(result), name, float(until) - float(since), resumed=True)
PY
}

cat <<PLAN
cotree quickstart, everything below $PWD
  1. install    Python packages into $venv (under a minute with a fast network; 4 GB)
  2. doctor     check the machine
  3. sft        cold start: a small model learns the format from worked solutions (3 min)
  4. train      reinforcement from rewards; measures accuracy before and after (4 min)
  5. report     $run/result.json and $run/report.html
PLAN

started=$(now)
stage scripts/install_cpu.sh
export PATH=$venv/bin:$PATH HF_HUB_OFFLINE=1  # the model is made here; nothing is downloaded

finished() {
  "$venv/bin/python" -c 'import json, sys; sys.exit("accuracy_after" not in json.load(open(sys.argv[1])))' \
    "$run/result.json" 2>/dev/null
}
if finished; then
  echo "$run holds a finished run; --fresh would start over."
else
  trap 'add_seconds total "$started"' EXIT
  add_seconds install "$started"
  printf '\n== doctor\n'
  stage cotree doctor "$config"
  if [[ ! -f $run/sft/model/config.json ]]; then
    printf '\n== sft\n'
    stage cotree sft "$config" --resume
  fi
  printf '\n== train\n'
  stage cotree train "$config" --resume
  trap - EXIT
  add_seconds total "$started"
fi
printf '\n== report\n'
stage cotree report "$run"

printf '\n'
"$venv/bin/python" - "$run/result.json" <<'PY'
import json
import sys
from pathlib import Path

result = json.loads(Path(sys.argv[1]).read_text())
for when in ("before", "after"):
    accuracy = result[f"accuracy_{when}"]
    value, low, high = (f"{100 * accuracy[key]:.1f} %" for key in ("value", "low", "high"))
    print(f"accuracy {when:6} training: {value:>7}  (95 % interval {low} to {high}, n = {accuracy['n']})")
seconds = ", ".join(f"{name} {value:.0f}" for name, value in result["seconds"].items())
print(f"seconds: {seconds}")
PY
echo "result: $PWD/$run/result.json"
echo "report: $PWD/$run/report.html"
