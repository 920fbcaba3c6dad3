#!/usr/bin/env bash
# The paper's DIV2K table for one model: x2 x3 x4 x6 x12 x18 x24 x30.
# bash scripts/test-div2k.sh MODEL.pth [GPU] [MORE OPTIONS OF test.py]
. "$(dirname "$0")/test-suites.sh" "div2k" "$@"
