"""Importing this ends a script in one line where a package that it needs is not installed."""

from __future__ import annotations

import importlib.util
import sys

# What is imported -> what pip calls it.
_NEEDED = {
    "numpy": "numpy",
    "torch": "torch",
    "yaml": "PyYAML",
    "tqdm": "tqdm",
    "PIL": "Pillow",
    "pyvips": "pyvips[binary]",
}
_missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
if _missing:
    sys.exit(
        f"error: {', '.join(_missing)} not installed for {sys.executable}; "
        "run: source .venv/bin/activate, or: pip install -r requirements.txt"
    )
