#!/usr/bin/env bash
# The paper's benchmark table for one model: Set5, Set14, B100 and Urban100 at x2 x3 x4 x6 x8.
# bash scripts/test-benchmark.sh MODEL.pth [GPU] [MORE OPTIONS OF test.py]
set -eu
if [ "$#" -lt 1 ]; then
    echo "usage: bash scripts/test-benchmark.sh MODEL.pth [GPU] [MORE OPTIONS OF test.py]" >&2
    exit 2
fi
model="$1"
shift
if [ -f "$model" ]; then
    model="$(cd "$(dirname "$model")" && pwd)/$(basename "$model")"
fi
cd "$(dirname "$0")/.."
gpu=()
if [ "$#" -gt 0 ] && [[ "$1" != --* ]]; then
    gpu=(--gpu "$1")
    shift
fi
exec "${PYTHON:-python}" test.py --suite set5 set14 b100 urban100 --model "$model" ${gpu[@]+"${gpu[@]}"} "$@"
