#!/usr/bin/env bash
# Serves a model on this machine's CPU by OpenAI's protocol, on loopback only. Ctrl-C ends it.
#
#   scripts/serve_cpu.sh MODEL [PORT [OPTION ...]]      for example runs/quickstart/model 8000
#
# MODEL is a folder or a name of the Hugging Face hub; clients call it by the same name, at
# http://127.0.0.1:PORT (8000). With COTREE_SERVER_KEY set, a request must carry that key: give it to
# cotree as OPENAI_API_KEY. COTREE_KV_CACHE (1G) is the memory for keys and values, which limits how
# many requests run at once. Options go to vLLM and win over those below: --max-model-len 2048,
# --chat-template FILE, --dtype float32 (float32 checkpoints are served in bfloat16 otherwise).
set -euo pipefail

refuse() { echo "serve_cpu.sh: $*" >&2; exit 2; }

model=${1:-}
port=${2:-8000}
if [[ -z $model || $model == -* ]]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
  refuse "the port must be a number from 1 to 65535, not $port."
fi
if [[ -d $model ]]; then
  [[ -f $model/config.json ]] || refuse "$model holds no config.json, so it is no model."
  export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}  # a folder has all it needs
elif [[ $model == [./~]* || $model == */*/* ]]; then
  refuse "$model is not a folder."
fi

# The folder is looked up where the caller is, so there is no cd.
python=${COTREE_VENV:-$(dirname "$0")/../.venv}/bin/python
[[ -x $python ]] || python=$(command -v python || true)
"${python:-false}" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)' 2>/dev/null || refuse \
  "${python:-python} has no vLLM; run scripts/install_cpu.sh first."

if [[ -n ${COTREE_SERVER_KEY:-} ]]; then
  export VLLM_API_KEY=$COTREE_SERVER_KEY  # as an option it would show in the list of processes
fi
export VLLM_LOGGING_LEVEL=${VLLM_LOGGING_LEVEL:-ERROR} VLLM_NO_USAGE_STATS=1
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore} TORCH_CPP_LOG_LEVEL=ERROR
export TORCHDYNAMO_DISABLE=1             # compiling takes 10 s and more, to no benefit on a CPU
export VLLM_CPU_OMP_THREADS_BIND=nobind  # bound to one core, it waits for whoever else uses that

options=(
  --host 127.0.0.1 --port "$port"
  --enforce-eager              # no compilation here either
  --no-enable-chunked-prefill  # a chunked prompt with a seed kills the CPU sampler
  --block-size 32              # the default keeps shorter prompts out of the prefix cache
  --kv-cache-memory-bytes "${COTREE_KV_CACHE:-1G}"
  --max-model-len auto         # the model's own, or what that memory holds
  --generation-config vllm     # the checkpoint's would change the sampling silently
  --disable-uvicorn-access-log
)
echo "Serving $model at http://127.0.0.1:$port; it answers after half a minute or more." >&2
# Not `vllm serve`: that command asks for its version as "vllm" and finds none in the CPU wheel.
exec "$python" -P -m vllm.entrypoints.openai.api_server --model "$model" "${options[@]}" "${@:3}"
