#!/usr/bin/env bash
# The paper's benchmark table for one model: Set5, Set14, B100 and Urban100 at x2 x3 x4 x6 x8.
# bash scripts/test-benchmark.sh MODEL.pth [GPU] [MORE OPTIONS OF test.py]
. "$(dirname "$0")/test-suites.sh" "set5 set14 b100 urban100" "$@"
