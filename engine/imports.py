"""Code of the user's own, which registers encoders, models, data sets and wrappers.

Configurations name it under `imports`, command lines by `--import`. A checkpoint never imports
anything by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.runtime import nonempty
from registry import show
from utils import ConfigError, UserError

ALLOWED = "a module on Python's path, or a .py file"


@contextlib.contextmanager
def no_silent_exit() -> Iterator[None]:
    """Around code of the user's: its `exit()` would look like a run that went well.

    Raises:
        RuntimeError: it called `exit()` or `sys.exit(0)`; other exit codes pass.
    """
    try:
        yield
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
        raise RuntimeError("exit() called by code that was imported or registered") from error


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add `--import` to a command line that loads models; `import_all(options.imports)` obeys."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        type=nonempty,
        metavar="MODULE",
        help="a module, or a .py file, that registers the model (or its encoder)",
    )


def found_imports(names: Any, folder: Path) -> Any:
    """The `imports` of a configuration in a folder, files beside it by their whole paths."""
    if not isinstance(names, list):
        return names
    return [found_import(name, folder) if isinstance(name, str) else name for name in names]


def found_import(name: str, folder: Path) -> str:
    file = folder / (name if name.endswith(".py") else f"{name}.py")
    return str(file.resolve()) if name.endswith(".py") or file.is_file() else name


def import_all(names: Any, where: str = "--import") -> None:
    """Import modules by their names, and `.py` files by their paths.

    Args:
        names: a list of texts; anything else is left to the check of the configuration.
        where: what names them, for messages.

    Raises:
        ConfigError: no such module or file, or a file whose name another module has.
        ImportError: the code raises an exception, which is its cause.
    """
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        prefix = where if where.startswith("--") else f"{where}: imports"
        for name in names:
            import_one(name, prefix)


def import_one(name: str, prefix: str) -> None:
    module, file = name, None
    if name.endswith(".py"):
        file, module = Path(name).resolve(), Path(name).stem
        if not file.is_file():
            raise ConfigError(f"{prefix}: {name!r} given: no such file; allowed: {ALLOWED}")
        # At the end, where it hides nothing. Loader processes get the path, and so find the module.
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
    try:
        with no_silent_exit():
            imported = importlib.import_module(module)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):  # one that it imports
            raise ImportError(f"{name} can't be imported") from error
        message = f"{prefix}: {show(name)} given: no such module; allowed: {ALLOWED}"
        raise ConfigError(message) from error
    except Exception as error:  # with its traceback, whatever its kind
        raise ImportError(f"{name} can't be imported") from error
    taken = getattr(imported, "__file__", None)
    if file is not None and (taken is None or not os.path.samefile(taken, file)):
        raise ConfigError(
            f"{prefix}: {name!r} given: another module is called {module!r} "
            f"({taken or 'built in'}); allowed: a file of another name"
        )
