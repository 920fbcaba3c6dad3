"""The model benchmarks run from start to table, on small work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runtime import has_bf16

SMALL = {
    "decode.py": ["--height", "8", "--scale", "2"],
    "train_step.py": ["--batch", "1", "--size", "8", "--queries", "16"],
}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["liif", "metasr"])
@pytest.mark.parametrize("script", SMALL)
def test_benchmark_prints_its_table(root: Path, script: str, model: str) -> None:
    command = [sys.executable, f"benchmarks/{script}", *SMALL[script], "--model", model]
    command += ["--rounds", "2", "--threads", "1", "--device", "cpu"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (plain|ours) (\w+) \| ([\d.]+) \| ([\d.]+) \|", done.stdout, re.M)
    precisions = ["fp32", "bf16"] if has_bf16("cpu") else ["fp32"]
    assert [row[:2] for row in rows] == [("plain", "fp32"), *(("ours", p) for p in precisions)]
    assert all(float(milliseconds) > 0 for _, _, milliseconds, _ in rows)
    assert float(rows[0][3]) == 1
