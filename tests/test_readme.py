"""What the README and docs say: the worked example runs, options, keys, files and links exist."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import models
from datasets.datasets import datasets_registry
from datasets.images import read_rgb, write_rgb
from datasets.resize import resize_matlab
from engine.config import TestConfig, TrainConfig, read_train_config
from models.models import models_registry
from scripts.preparation.low_resolution import make_low_resolution
from tests.commands import Commands

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTION = r"--[a-z][a-z-]*(?!\w)"  # torchrun's own have underscores
DOCUMENTS = sorted(
    path for part in (".", "docs", "benchmarks") for path in (ROOT / part).glob("*.md")
)
SCRIPTS = [
    "train_liif.py",
    "test.py",
    "demo.py",
    "scripts/prepare_data.py",
    "scripts/export.py",
    "scripts/study.py",
]


def block(heading: str, language: str) -> str:
    """The first block of code in that language below a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"no {language} block under {heading}"
    return found[1]


# Runs in a process of its own: the example's name must not enter the registry of other tests.
USE_THE_EXAMPLE = """
import sys, torch, yaml
import models, plain_cnn
from registry import Registry
from utils import ConfigError

spec = yaml.safe_load(open("example.yaml"))["model"]
problems = []
models.models_registry.check(spec, "model", problems)
assert problems == [], problems
torch.manual_seed(0)
model = models.make(spec)
assert model.encoder.out_dim == 32, model.encoder.out_dim
assert model.imnet.linears[0].in_features == 9 * 32 + 4

picture = torch.rand(1, 3, 12, 12)
coord, cell = torch.rand(1, 40, 2) * 2 - 1, torch.full((1, 40, 2), 2 / 30)
assert model(picture, coord, cell).shape == (1, 40, 3)

# The halo is what it says: a change further away than that changes no feature, a nearer one does.
encoder = models.make({"name": "plain-cnn", "args": {"width": 32, "depth": 3}})
wide = torch.rand(1, 3, 1, 20)
other = wide.clone()
other[..., 10] += 1
changed = (encoder(wide) != encoder(other)).any(dim=1)[0, 0].nonzero()[:, 0].tolist()
assert min(changed) == 10 - encoder.halo and max(changed) == 10 + encoder.halo, changed

spec["args"]["encoder_spec"]["args"]["width"] = "wide"
models.models_registry.check(spec, "model", problems)
assert len(problems) == 1, problems
print(problems[0])
"""


def test_the_example_encoder_works(tmp_path: Path) -> None:
    (tmp_path / "plain_cnn.py").write_text(block("Add an encoder", "python"))
    (tmp_path / "example.yaml").write_text(block("Add an encoder", "yaml"))
    (tmp_path / "use.py").write_text(USE_THE_EXAMPLE)
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model.args.encoder_spec.args.width: ")
    assert "'wide'" in done.stdout


def test_every_key_is_in_the_reference() -> None:
    named = set(re.findall(r"`([A-Za-z0-9_-]+)`", (ROOT / "docs/configuration.md").read_text()))
    for config in (TrainConfig, TestConfig):
        for field in dataclasses.fields(config):
            assert field.name in named, f"{config.__name__}.{field.name}"
    for registry in (datasets_registry, models_registry):
        ours = {
            name: maker
            for name, maker in registry.makers.items()
            if maker.__module__.startswith(("datasets.", "models."))  # not another test's
        }
        for name, maker in ours.items():
            assert name in named, name
            parameters = set(inspect.signature(maker).parameters) - {"dataset"}
            assert parameters <= named, (name, parameters - named)


def options_of(script: str, commands: Commands) -> set[str]:
    """What a script's `--help` lists, with that of its sub-commands."""
    helps = [commands.run(script, "--help", folder=ROOT).out]
    if script == "scripts/prepare_data.py":
        names = ("sample", "div2k", "benchmark", "celebahq", "bsds500", "lr")
        helps += [commands.run(script, name, "--help", folder=ROOT).out for name in names]
    assert all("usage: " in each for each in helps), helps
    return set(re.findall(OPTION, "\n".join(helps))) - {"--help", "--version"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_documented_options_are_the_scripts_own(script: str, commands: Commands) -> None:
    """Both ways: nothing is promised that is not there, nothing is there that is not said."""
    real = options_of(script, commands)
    parts = re.split(r"^## (.*)\n", (ROOT / "docs/options.md").read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    said = set(re.findall(OPTION, sections[script]))
    general = set(re.findall(OPTION, sections["All commands"]))
    assert said - real - general == set(), "documented, but not options"
    assert real - said - general == set(), "options that are not documented"


def blocks(document: str) -> list[list[str]]:
    """The commands of each block of bash in a document, without comments."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(r"(^|\s)#.*", "", block, flags=re.MULTILINE).split("\n") for block in found]


COMMANDS = sorted(
    {
        " ".join(line.split())
        for path in DOCUMENTS
        for lines in blocks(str(path.relative_to(ROOT)))
        for line in lines
        if "python " in line or "torchrun " in line
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str, commands: Commands) -> None:
    """Scripts, options and configurations of every command in the documents are there."""
    words = shlex.split(line.removeprefix("exec "))
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None:
        assert words[:3] == ["python", "-m", "engine.weights"], line
        script = "engine/weights/__main__.py"
    assert (ROOT / script).is_file(), script
    given = words[words.index(script) + 1 :] if script in words else words[3:]
    for word in given:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word
    if script.startswith(("benchmarks/", "scripts/draw")):
        return  # their parsers are made where they run
    told = commands.run(script, *given, "--help", folder=ROOT)
    assert told.code == 0, told.err
    known = set(re.findall(OPTION, told.out))
    assert {word for word in given if re.fullmatch(OPTION, word)} <= known, line


# What stands in for hours of training, for downloads, and for data that need them.
SHORT = (
    "--set epoch_max=1 precision=fp32 num_workers=0 train_dataset.batch_size=8 "
    "train_dataset.dataset.args.repeat=1 train_dataset.dataset.args.first_k=8 "
    "val_dataset.dataset.args.repeat=1 val_dataset.dataset.args.first_k=2"
)
SUBSTITUTIONS = (
    (r"https://github.com/OWNER/liif.git", f"{ROOT} liif"),
    (r"source .venv/bin/activate", ":"),
    (r"pip install .*", ":"),  # the environment of the test has them
    (r"tensorboard --logdir.*", ":"),
    (r"python scripts/prepare_data.py (div2k|benchmark)", ":"),
    (r"configs/train-div2k/train_edsr-baseline-liif.yaml", "configs/quickstart.yaml"),
    (r"save/_train_edsr-baseline-liif", "save/_quickstart"),
    (r"(python train_liif.py .*)", rf"\1 {SHORT}"),
    (r" --gpu 0\b", ""),
    (r"set5 set14 b100 urban100 div2k", "set5"),
    (r"--(model|init) edsr-baseline-liif", r"--\1 published.pth"),
    (r'"edsr-baseline-liif"', '"published.pth"'),
    (r"(?m)^python scripts/study.py \S+$", ":"),  # tests/test_study.py trains
    (r".*#SBATCH(.|\n)*", ":"),  # needs GPUs; tests/test_distributed.py has torchrun
)


def stand_in(block: str) -> str:
    for pattern, other in SUBSTITUTIONS:
        block = re.sub(pattern, other, block)
    return block


def prepare_clone(clone: Path) -> None:
    """What the documents take for granted: photographs, pairs, a benchmark, a clip, weights."""
    from tests.clips import make_clip  # here, for its package is optional

    tiles = sorted((clone / "load/sample/train").glob("*.png"))[:10]
    small = read_rgb(clone / "load/sample/valid/astronaut.png")[32:96, 64:128]
    (clone / "photos").mkdir()
    for name in ("photo.jpg", "in.png", "photos/a.png"):
        Image.fromarray(small).save(clone / name)
    for part in ("train", "valid"):
        for folder in (f"own/{part}", f"own-pairs/{part}/high", f"own-pairs/{part}/low"):
            (clone / "load" / folder).mkdir(parents=True)
        for tile in tiles:
            pixels = read_rgb(tile)
            half = resize_matlab(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2))
            write_rgb(clone / f"load/own/{part}/{tile.name}", pixels)
            write_rgb(clone / f"load/own-pairs/{part}/high/{tile.name}", pixels)
            write_rgb(clone / f"load/own-pairs/{part}/low/{tile.name}", half)
    make_clip(clone / "clip.mp4", 5, (24, 32))
    (clone / "load/benchmark/Set5/HR").mkdir(parents=True)
    write_rgb(clone / "load/benchmark/Set5/HR/face.png", read_rgb(tiles[0])[:96, :96])
    make_low_resolution(
        clone / "load/benchmark/Set5/HR", clone / "load/benchmark/Set5/LR_bicubic", [2, 3, 4], 1
    )
    spec = read_train_config(clone / "configs/train-div2k/train_edsr-baseline-liif.yaml").model
    optimizer = {"name": "adam", "args": {"lr": 1e-4}, "sd": {}}
    content = {"model": {**spec, "sd": models.make(spec).state_dict()}, "optimizer": optimizer}
    torch.save({**content, "epoch": 1000}, clone / "published.pth")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_fresh_clone_does_what_the_documents_say(tmp_path: Path) -> None:
    """Every block of the README and of the guides runs, one after the other."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository to clone")
    # An environment that is there already, as after an earlier installation.
    binary = tmp_path / "venv/bin/python"
    binary.parent.mkdir(parents=True)
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    binary.chmod(0o755)
    stamp = subprocess.run(
        ["bash", "-c", 'echo "$("$0" --version) $(cat requirements.txt{,} | cksum)"', str(binary)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "venv/installed-requirements.txt").write_text(stamp)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "LIIF_VENV": str(tmp_path / "venv"),
        "PYTHON": str(binary),
        "PATH": f"{binary.parent}:{os.environ['PATH']}",
    }

    def run(*command: str, folder: Path) -> None:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    clone = tmp_path / "liif"
    for document in ("README.md", "docs/guides.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        found = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for language, block in found:
            if "git clone" in block:
                run("bash", "-euc", stand_in(block), folder=tmp_path)
                prepare_clone(clone)
            elif language == "bash":
                run("bash", "-euc", stand_in(block), folder=clone)
            elif "class PlainCNN" not in block:  # run above
                run("python", "-c", stand_in(block), folder=clone)
    assert (clone / "output.png").is_file()
    assert (clone / "save/_photographs/epoch-best.pth").is_file()
    assert (clone / "enlarged").is_dir()


def test_named_files_exist() -> None:
    """Paths in commands and in links, of the README and of every document."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        paths = [document.parent / link for link in links]
        paths += [
            ROOT / name
            for name in re.findall(
                r"(?:configs|scripts|benchmarks|docs|engine)/[\w./-]+\.\w+", text
            )
        ]
        missing = [str(path) for path in paths if not path.exists()]
        assert missing == [], document.name


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives to a document's headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def test_sections_that_are_linked_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            target = document.parent / link if link else document
            assert anchor in anchors(target), f"{document.name}: {link}#{anchor}"
