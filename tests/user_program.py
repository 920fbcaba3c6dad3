"""A user's own program around a script, with an encoder and a data set that may raise.

    user_program.py START-METHOD SCRIPT ARGUMENTS

The variable USER_ERROR says where and what, such as `data:KeyError`, or `encoder:KeyError:1` for
the process of rank 1 alone; the time of the error is that of the file `raised`.
"""

from __future__ import annotations

import builtins
import importlib
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
import models

MESSAGE = "mat1 (12x34) and mat2 of the user"


class UserError(Exception):
    """Can't be made from its message, as pickle would."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(f"{MESSAGE} {rows} {columns}")


def may_raise(place: str) -> None:
    where, what, *rank = (os.environ.get("USER_ERROR") or ":").split(":")
    if where != place or (rank and rank != [os.environ.get("RANK")]):
        return
    Path("raised").touch()
    if what == "UserError":
        raise UserError(1, 2)
    if what == "OutOfMemoryError":
        raise torch.OutOfMemoryError(MESSAGE)
    if what == "exit":
        sys.exit()
    if what == "KeyError":
        keys: dict[str, int] = {}
        assert keys[MESSAGE]
    raise getattr(builtins, what)(7 if what == "SystemExit" else MESSAGE)


@models.register("user-encoder")
class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.out_dim, self.halo, self.steps = 4, 1, 0

    def forward(self, picture: Tensor) -> Tensor:
        self.steps += self.training
        if self.steps == 3 or not self.training:
            may_raise("encoder" if self.training else "validation")
        return self.conv(picture)


@datasets.register("user-data")
class Data:
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        if index == 5:
            may_raise("data")
        return torch.full((3, 20, 24), index / 24)


if __name__ == "__main__":
    method, script, *arguments = sys.argv[1:]
    with open("starts", "a") as starts:
        starts.write("once more\n")
    multiprocessing.set_start_method(method)
    sys.argv = [script, *arguments]
    from engine.runtime import run_script

    run_script(importlib.import_module(script.removesuffix(".py")).main)
