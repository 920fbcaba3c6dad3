# For test-benchmark.sh and test-div2k.sh, which source it: a model on some of test.py's suites.
# . test-suites.sh "SUITE ..." MODEL.pth [GPU] [MORE OPTIONS OF test.py]
set -eu
if [ "$#" -lt 2 ]; then
    echo "usage: bash scripts/$(basename "$0") MODEL.pth [GPU] [MORE OPTIONS OF test.py]" >&2
    exit 2
fi
read -ra suites <<< "$1"
model="$2"
shift 2
if [ -f "$model" ]; then
    model="$(cd "$(dirname "$model")" && pwd)/$(basename "$model")"
fi
cd "$(dirname "$0")/.."
gpu=()
if [ "$#" -gt 0 ] && [[ "$1" != --* ]]; then
    gpu=(--gpu "$1")
    shift
fi
exec "${PYTHON:-python}" test.py --suite "${suites[@]}" --model "$model" ${gpu[@]+"${gpu[@]}"} "$@"
