#!/usr/bin/env bash
# Everything that is measured on a GPU, within eight minutes and without a network, into results/gpu_CARD.csv.
#   benchmarks/gpu.sh             # with a python3 that has jax[cuda13] and the rest of requirements.txt
#   benchmarks/gpu.sh WHEELS      # the same, with the wheels of a folder before what is installed
set -euo pipefail
if [ $# -gt 0 ]; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$1"/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
cd "$(dirname "$0")/.." # not before: WHEELS may be relative
python3 benchmarks/gpu.py
