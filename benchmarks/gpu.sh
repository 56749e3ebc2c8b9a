#!/usr/bin/env bash
# Everything that is measured on a GPU, within eight minutes and without a network, into results/gpu_CARD.csv.
#   benchmarks/gpu.sh             # with a python3 that has jax[cuda13] and the rest of requirements.txt
#   benchmarks/gpu.sh WHEELS      # the same, after installing what is missing from a folder of wheels
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$1"/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export XLA_PYTHON_CLIENT_PREALLOCATE=false # one process after another, each with a parent that looks at the device too
python3 benchmarks/gpu.py
