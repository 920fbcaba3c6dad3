"""Configurations that inherit from each other, and those that import code of the user's own."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datasets.datasets import datasets_registry
from engine.config import config_dict, read_test_config, read_train_config
from engine.config_files import merged, read_layers
from engine.imports import import_all
from engine.train.resume import find_differences
from models.models import models_registry
from tests.commands import Commands
from tests.runs import tiny_config
from tests.test_config import DATA, TRAIN
from utils import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def write(folder: Path, name: str, **values: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def test_values_are_merged_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", **TRAIN, multi_step_lr={"milestones": [1, 2], "gamma": 0.5})
    write(
        tmp_path / "own",
        "middle.yaml",
        base="../base.yaml",
        multi_step_lr={"milestones": [4]},
        optimizer={"name": "sgd", "args": {"lr": 1, "momentum": 0.9}},
    )
    path = write(
        tmp_path / "own",
        "last.yaml",
        base="middle.yaml",
        epoch_max=7,
        train_dataset={"wrapper": {"args": {"scale_max": 3}}},
        model={"args": {"imnet_spec": {"args": {"hidden_list": [5, 6]}}}},
        optimizer={"args": {"momentum": 0.5}},
    )
    expected = copy.deepcopy(TRAIN)
    expected["epoch_max"] = 7
    expected["train_dataset"]["wrapper"]["args"]["scale_max"] = 3
    expected["model"]["args"]["imnet_spec"]["args"]["hidden_list"] = [5, 6]
    expected["multi_step_lr"] = {"milestones": [4], "gamma": 0.5}
    # Another name: none of adam's arguments is left.
    expected["optimizer"] = {"name": "sgd", "args": {"lr": 1, "momentum": 0.5}}
    assert merged(read_layers(path)) == expected
    assert read_train_config(path) == read_train_config(expected)


def test_null_takes_a_setting_back_and_options_come_last(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", **TRAIN, multi_step_lr={"milestones": [1]}, seed=4)
    path = write(tmp_path, "own.yaml", base="base.yaml", multi_step_lr=None, seed=5)
    config = read_train_config(path, ["seed=6", "lr_schedule={name: cosine}"])
    assert config.multi_step_lr is None
    assert config.seed == 6


def test_test_configurations_and_the_project_s_own_inherit(tmp_path: Path) -> None:
    path = write(tmp_path, "own.yaml", base="configs/test/test-set5-2.yaml", eval_bsize=9)
    shipped = read_test_config(ROOT / "configs/test/test-set5-2.yaml")
    assert config_dict(read_test_config(path)) == {**config_dict(shipped), "eval_bsize": 9}


def test_a_file_that_inherits_from_itself(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", base="b.yaml")
    write(tmp_path, "b.yaml", base="./a.yaml")
    with pytest.raises(ConfigError) as caught:
        read_train_config(tmp_path / "a.yaml")
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert str(caught.value) == f"{a}: base: inherits from itself ({a} -> {b} -> {a})"


@pytest.mark.parametrize(
    ("base", "expected"), [("no.yaml", "no.yaml: can't be read"), (3, "base: 3 given")]
)
def test_a_base_that_is_none(tmp_path: Path, base: Any, expected: str) -> None:
    path = write(tmp_path, "own.yaml", base=base)
    with pytest.raises(ConfigError) as caught:
        read_train_config(path)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_problems_name_the_file_that_they_come_from(tmp_path: Path) -> None:
    broken = copy.deepcopy(TRAIN)
    broken["optimizer"]["args"]["lr"] = "fast"
    broken["model"]["args"]["imnet_spec"]["args"]["hidden_list"] = [8, 0]
    write(tmp_path, "base.yaml", **broken, epoch_val=0)
    path = write(tmp_path, "own.yaml", base="base.yaml", seed=-1, epoch_val=-2)
    with pytest.raises(ConfigError) as caught:
        read_train_config(path, ["epoch_max=x"])
    told = {line.split(": ")[0].strip(): line for line in str(caught.value).splitlines()[1:]}
    inherited = {key for key, line in told.items() if line.endswith(f"(from {tmp_path}/base.yaml)")}
    assert inherited == {"optimizer.args.lr", "model.args.imnet_spec.args.hidden_list[1]"}
    assert set(told) - inherited == {"seed", "epoch_val", "epoch_max"}


OWN = """
from typing import Annotated
import torch
from torch import nn
import datasets
from models.models import register
from registry import AtLeast

@register("own-encoder")
class Own(nn.Module):
    def __init__(self, width: Annotated[int, AtLeast(1)] = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.out_dim, self.halo = width, 1

    def forward(self, x):
        return self.conv(x)

@datasets.register("own-data")
class Data:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((3, 20, 24), index / 8)
"""


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test imports and registers is undone."""
    for registry in (datasets_registry, models_registry):
        monkeypatch.setattr(registry, "makers", dict(registry.makers))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def own_config(folder: Path, **changes: Any) -> Path:
    """A training run whose encoder and data set are registered by `own_code.py` beside it."""
    (folder / "own_code.py").write_text(OWN)
    encoder = {"name": "own-encoder", "args": {"width": 5}}
    data = {"name": "own-data"}
    settings = {"model__args__encoder_spec": encoder, "train_dataset__dataset": data, **changes}
    config = tiny_config(val_dataset=None, epoch_max=1, **settings)
    return write(folder, "tiny.yaml", **{"imports": ["own_code"], **config})


@pytest.mark.usefixtures("clean_imports")
def test_imported_names_are_checked_like_others(tmp_path: Path) -> None:
    path = own_config(tmp_path)
    config = read_train_config(path)
    assert config.imports == [str(tmp_path / "own_code.py")]  # the saved copy finds it, too
    with pytest.raises(ConfigError, match=r"width: 0 given; allowed: an integer"):
        read_train_config(path, ["model.args.encoder_spec.args.width=0"])
    again = read_train_config(write(tmp_path / "save", "config.yaml", **config_dict(config)))
    assert again == config


@pytest.mark.usefixtures("clean_imports")
def test_imports_of_the_base_are_found_beside_it(tmp_path: Path) -> None:
    own_config(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more_code.py").write_text("")
    path = write(
        tmp_path / "sub", "own.yaml", base="../tiny.yaml", imports=["more_code.py", "json"]
    )
    expected = [str(tmp_path / "own_code.py"), str(tmp_path / "sub/more_code.py"), "json"]
    assert read_train_config(path).imports == expected


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize("override", ["imports=[own_code.py, json]", "imports.0=own_code.py"])
def test_imports_of_options_are_found_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    """And from anywhere by the configuration that is saved."""
    path = own_config(tmp_path, imports=["math", "json"])
    monkeypatch.chdir(tmp_path)
    expected = [str(tmp_path / "own_code.py"), "json"]
    assert read_train_config(path, [override]).imports == expected


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_such_module", "imports: 'no_such_module' given: no such module; allowed: a"),
        ("no.such", "imports: 'no.such' given: no such module"),
        (
            "gone.py",
            "gone.py' given: no such file; allowed: a module on Python's path, or a .py file",
        ),
        ("utils.py", "another module is called 'utils'"),
    ],
)
def test_modules_that_are_not_there(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "utils.py").write_text("")
    path = write(tmp_path, "own.yaml", **TRAIN, imports=[name])
    with pytest.raises(ConfigError) as caught:
        read_train_config(path)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize(
    "line", ["open('/no/such/file')", "import no_such_thing", "1 +", "1 / 0", "exit()"]
)
def test_exceptions_of_the_module_are_shown_whole(tmp_path: Path, line: str) -> None:
    """Not as a line, as mistakes of the project's user are."""
    (tmp_path / "broken_code.py").write_text(line)
    with pytest.raises(ImportError) as caught:
        import_all([str(tmp_path / "broken_code.py")])
    assert caught.value.__cause__ is not None


def test_values_that_are_no_modules() -> None:
    with pytest.raises(ConfigError, match=r"imports\[0\]: 3 given"):
        read_train_config({**TRAIN, "imports": [3]})
    with pytest.raises(ConfigError, match="imports: 'json' given"):
        read_train_config({**TRAIN, "imports": "json"})


@pytest.mark.usefixtures("clean_imports")
def test_moved_code_is_no_other_run(tmp_path: Path) -> None:
    config = read_train_config(own_config(tmp_path))
    then = {"config": {**config_dict(config), "imports": ["/elsewhere/own_code.py"]}}
    assert [*find_differences(then, config, {})] == []


@pytest.mark.parametrize("workers", [0, 2])
def test_training_testing_and_rendering_with_own_code(
    commands: Commands, tmp_path: Path, workers: int
) -> None:
    own_config(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    train = ("train_liif.py", "--config", "../tiny.yaml", "--set", f"num_workers={workers}")
    ended = commands.run(*train, folder=tmp_path / "elsewhere")
    assert ended.code == 0, ended
    model = tmp_path / "elsewhere/save/_tiny/epoch-last.pth"
    photo = write_photo(tmp_path / "photo.png")
    demo = ("demo.py", "--input", photo, "--model", model, "--resolution", "9,9")
    refused = commands.run(*demo, folder=tmp_path)
    assert "unknown model 'own-encoder'" in refused.line
    code = tmp_path / "own_code.py"
    assert refused.line.endswith(f"import its code first (--import {code})")
    ended = commands.run(*demo, "--import", "own_code.py", folder=tmp_path)
    assert ended.code == 0, ended
    test_data = {
        **DATA,
        "dataset": {"name": "own-data"},
        "wrapper": {"name": "sr-implicit-downsampled"},
    }
    path = write(tmp_path, "test.yaml", imports=["own_code"], test_dataset=test_data)
    ended = commands.run("test.py", "--config", path, "--model", model, folder=tmp_path)
    assert ended.code == 0, ended
    assert "result: " in ended.out


def write_photo(path: Path) -> Path:
    from datasets.images import write_rgb

    write_rgb(path, torch.zeros(7, 8, 3, dtype=torch.uint8).numpy())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_loader_processes_that_start_anew_find_the_code(tmp_path: Path, method: str) -> None:
    own_config(tmp_path)
    program = tmp_path / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text(
        "import multiprocessing, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method({method!r})\n"
        "    sys.argv = ['train_liif.py', '--config', '../tiny.yaml', '--set', 'num_workers=2']\n"
        "    import train_liif\n"
        "    from engine.runtime import run_script\n"
        "    run_script(train_liif.main)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=program.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" in done.stdout
