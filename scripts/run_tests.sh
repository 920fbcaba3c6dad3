#!/usr/bin/env bash
# Every check of the project on any machine: bash scripts/run_tests.sh [--slow] [PYTEST ARGUMENTS]
# Makes .venv when there is none, then runs ruff, mypy and pytest, files of tests side by side on the
# cores; --slow adds the longer tests.
set -u
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare_environment requirements-dev.txt || exit 1

failed=()
step() {
    local name="$1"
    shift
    echo
    echo "== $name"
    "$@" || failed+=("$name")
}

step "ruff check" "$VENV_PYTHON" -m ruff check .
step "ruff format" "$VENV_PYTHON" -m ruff format --check .
step "mypy" "$VENV_PYTHON" -m mypy
step "pytest" "$VENV_PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile \
    --timeout 1200 --durations 10 "$@"

echo
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: $(IFS=,; echo "${failed[*]}" | sed 's/,/, /g')"
    exit 1
fi
echo "all checks passed"
