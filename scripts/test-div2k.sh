#!/usr/bin/env bash
# The paper's DIV2K table for one model: x2 x3 x4 x6 x12 x18 x24 x30.
# bash scripts/test-div2k.sh MODEL.pth [GPU] [MORE OPTIONS OF test.py]
set -eu
if [ "$#" -lt 1 ]; then
    echo "usage: bash scripts/test-div2k.sh MODEL.pth [GPU] [MORE OPTIONS OF test.py]" >&2
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
exec "${PYTHON:-python}" test.py --suite div2k --model "$model" ${gpu[@]+"${gpu[@]}"} "$@"
