"""What the README and docs say: the worked example runs, options, keys, files and links exist."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.datasets import datasets_registry
from engine.config import TestConfig, TrainConfig
from models.models import models_registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTION = r"--[a-z][a-z-]*(?!\w)"  # torchrun's own have underscores
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


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
    section = README.split("\n## Configuration\n", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`([A-Za-z0-9_-]+)`", section))
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


@pytest.mark.parametrize("script", ["train_liif.py", "test.py", "demo.py"])
def test_documented_options_are_the_scripts_own(script: str) -> None:
    """Both ways: nothing is promised that is not there, nothing is there that is not said."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    real = set(re.findall(OPTION, done.stdout)) - {"--help"}
    section = README.split("\n## Train, test, render\n", 1)[1].split("\n## ", 1)[0]
    parts = re.split(r"\n\*\*(Training|Testing|Rendering)\*\*", section)
    heading = {"train_liif.py": "Training", "test.py": "Testing", "demo.py": "Rendering"}[script]
    own = parts[parts.index(heading) + 1].split("In Python")[0]
    commands = [line for line in section.splitlines() if line.startswith(f"python {script}")]
    said = set(re.findall(OPTION, "\n".join([own, *commands])))
    general = set(re.findall(OPTION, parts[0]))
    assert said - real == set(), "documented, but not options"
    assert real - said - general == set(), "options that are not documented"


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


def test_sections_that_are_linked_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        headings = {
            re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            assert anchor in headings, f"{document.name}: #{anchor}"
