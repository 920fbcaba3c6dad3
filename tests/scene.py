"""A folder in which all three scripts have something to do: what tests of bad inputs spoil."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from tests.commands import Commands, Ended
from tests.runs import RUN, write_config
from tests.small import HALF, photograph

SCRIPTS = ("train", "test", "demo")
SET = {"train": "train_dataset", "test": "test_dataset"}
"""The part of a configuration that holds the pictures."""
CHANGES = {"epoch_max": 1, "val_dataset": None, "epoch_val": None, "ema_decay": None}


class Payload:
    """Unpickled by Python itself, this would make a file."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("executed", "w")


def train_model(commands: Commands, folder: Path) -> bytes:
    """The checkpoint that training in a scene leaves."""
    write_config(folder, **CHANGES)
    ended = commands.run(*command_for("train"), folder=folder)
    assert ended.code == 0, ended
    return (folder / RUN / "epoch-last.pth").read_bytes()


def make_scene(folder: Path, model: bytes) -> Path:
    """Six pictures, pairs, a model, a split file, and configurations for training and testing."""
    write_config(folder, **CHANGES)
    for name, size in (("low", (10, 12)), ("high", (20, 24))):
        (folder / name).mkdir()
        for number in range(2):
            Image.fromarray(photograph(*size)).save(folder / name / f"{number}.png")
    (folder / "model.pth").write_bytes(model)
    (folder / "split.json").write_text(json.dumps({"train": ["0.png", "1.png", "2.png"]}))
    source = {"name": "image-folder", "args": {"root_path": "pictures"}}
    wrapper = {"name": "sr-implicit-downsampled", "args": {"scale_min": 2}}
    config = {
        "test_dataset": {"dataset": source, "wrapper": wrapper, "batch_size": 1},
        "data_norm": {"inp": dict(HALF), "gt": dict(HALF)},
        "eval_type": "benchmark-2",
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(config))
    return folder


def command_for(kind: str, **given: str) -> list[str]:
    """Script and arguments of a command that works in a scene.

    Args:
        kind: "train", "init" and "resume" (training from model.pth), "test" or "demo".
        given: instead of what the scene holds: `config`, `model`, `input`, `output`.
    """
    if kind == "demo":
        model, source = given.get("model", "model.pth"), given.get("input", "pictures/3.png")
        output = given.get("output", "out.png")
        options = ["--model", model, "--input", source, "--output", output]
        return ["demo.py", *options, "--scale", "2"]
    if kind == "test":
        config, model = given.get("config", "test.yaml"), given.get("model", "model.pth")
        return ["test.py", "--config", config, "--model", model]
    start = []
    if kind != "train":
        start += [f"--{kind}", given.get("model", "model.pth"), "--name", kind]
        start += ["--set", "epoch_max=2"]
    return ["train_liif.py", "--config", given.get("config", "tiny.yaml"), *start]


def run(commands: Commands, kind: str, folder: Path, *extra: str, **given: Any) -> Ended:
    """Run the command for `kind`; `given` are those of `command_for` and of `Commands.run`."""
    names = ("config", "model", "input", "output")
    files = {name: given.pop(name) for name in names if name in given}
    return commands.run(*command_for(kind, **files), *extra, folder=folder, **given)


def picture(height: int = 20, width: int = 24) -> Image.Image:
    return Image.fromarray(photograph(height, width))


def encoded(folder: Path, name: str) -> bytes:
    """A good picture file of the format that the name ends in."""
    path = folder / f"good-{name}"
    picture().save(path)
    content = path.read_bytes()
    path.unlink()
    return content


def write_kinds(folder: Path) -> list[str]:
    """A picture of every kind that must be accepted; their names."""
    folder.mkdir(exist_ok=True)
    colours = photograph(20, 24)
    deep = colours.astype(np.uint16) * 257
    for mode, name in (
        ("L", "grey.png"),
        ("LA", "grey-alpha.png"),
        ("1", "one-bit.png"),
        ("P", "palette.png"),
        ("RGBA", "alpha.png"),
        ("L", "grey.jpg"),
        ("CMYK", "cmyk.jpg"),
        ("CMYK", "cmyk.tif"),
        ("P", "palette.gif"),
        ("RGBA", "alpha.webp"),
    ):
        Image.fromarray(colours).convert(mode).save(folder / name)
    Image.fromarray(deep[..., 0]).save(folder / "grey16.png")
    from datasets.images import write_rgb

    write_rgb(folder / "deep.png", deep)
    write_rgb(folder / "deep.tif", deep)
    return sorted(path.name for path in folder.iterdir())


def write_bad_checkpoints(folder: Path) -> dict[str, str]:
    """Files that are no good checkpoint, by name, and what must be said of each."""
    good = torch.load(folder / "model.pth", weights_only=True)
    whole = (folder / "model.pth").read_bytes()
    plain = {
        "truncated.pth": whole[: len(whole) // 2],
        "start.pth": whole[:1],
        "empty.pth": b"",
        "text.pth": b"no checkpoint at all\n",
        "picture.pth": (folder / "pictures/0.png").read_bytes(),
        "code.pth": pickle.dumps({"model": Payload()}),
        "code-old.pth": b"cos\nsystem\n(S'touch executed'\ntR.",
    }
    for name, content in plain.items():
        (folder / name).write_bytes(content)
    torch.save([1, 2, 3], folder / "list.pth")
    torch.save(good["model"]["sd"], folder / "weights.pth")
    torch.save({**good, "epoch": Payload()}, folder / "code-zip.pth")
    assert zipfile.is_zipfile(folder / "code-zip.pth")
    said = {
        "truncated.pth": "damaged .an archive without its end",
        "start.pth": "damaged",
        "empty.pth": "no checkpoint",
        "text.pth": "no checkpoint",
        "picture.pth": "no checkpoint",
        "code.pth": "holds code",
        "code-old.pth": "holds code",
        "list.pth": "no checkpoint .it holds list",
        "weights.pth": "no checkpoint .it has no key `model`",
        "code-zip.pth": "holds code",
    }
    return {**said, **write_misfits(folder, good)}


def write_misfits(folder: Path, good: dict[str, Any]) -> dict[str, str]:
    """Checkpoints whose weights and specification don't belong together, without a checksum."""
    good = {key: value for key, value in good.items() if key != "checksum"}

    def save(file: str, **changes: Any) -> None:
        torch.save({**good, "model": {**good["model"], **changes}}, folder / file)

    weights = good["model"]["sd"]
    first = next(iter(weights))
    save("lacks.pth", sd={key: value for key, value in weights.items() if key != first})
    save("more.pth", sd={**weights, "more": torch.zeros(2)})
    save("shape.pth", sd={**weights, first: torch.zeros(3, 2)})
    save("unknown.pth", name="liiff")
    save("argument.pth", args={**good["model"]["args"], "local_ensembel": True})
    save("no-args.pth", args={})
    return {
        "lacks.pth": first,
        "more.pth": "more",
        "shape.pth": first,
        "unknown.pth": "did you mean 'liif'",
        "argument.pth": "did you mean 'local_ensemble'",
        "no-args.pth": "encoder_spec",
    }
