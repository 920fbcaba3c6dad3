"""Every shipped configuration: parses, passes the whole check, and holds the published settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from engine.config import config_dict, read_test_config, read_train_config
from engine.config_files import read_degrade
from engine.evaluate.study import read_study
from engine.evaluate.suite_data import SUITES, find_suite

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = json.loads((ROOT / "tests/data/published_settings.json").read_text())
STUDIES = sorted((ROOT / "configs/studies").glob("*.yaml"))
DAMAGE = sorted((ROOT / "configs/degrade").glob("*.yaml"))
SHIPPED = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*STUDIES, *DAMAGE})


def test_every_published_configuration_is_shipped() -> None:
    shipped = {str(path.relative_to(ROOT / "configs").with_suffix("")) for path in SHIPPED}
    assert len(PUBLISHED) == 47
    assert set(PUBLISHED) <= shipped


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_settings_are_the_published_ones(name: str) -> None:
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    assert yaml.safe_load(text) == PUBLISHED[name]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configuration_passes_the_check(path: Path) -> None:
    """Reading also must not lose a value: what was written comes back from the dataclass."""
    written = yaml.safe_load(path.read_text())
    read = read_train_config if "train_dataset" in written else read_test_config
    values = config_dict(read(path))
    for key in ("eval_type", "eval_bsize", "epoch_max", "multi_step_lr", "epoch_val", "epoch_save"):
        if key in written:
            assert values[key] == written[key], key
    for key in ("train_dataset", "val_dataset", "test_dataset"):
        if written.get(key) is None:
            assert key not in written or values[key] is None
            continue
        whole = "base" not in written
        batch_size = values[key]["batch_size"]
        assert written[key].get("batch_size", batch_size) == batch_size
        for part in ("dataset", "wrapper"):
            own = written[key].get(part, {})
            assert not whole or own.keys() >= {"name", "args"}
            assert own.get("name", values[key][part]["name"]) == values[key][part]["name"]
            for name, value in own.get("args", {}).items():
                assert values[key][part]["args"].get(name) == value, (key, part, name)


def test_fast_tests_are_the_others_with_a_clipped_cell() -> None:
    plain = {
        path.stem: path
        for path in SHIPPED
        if path.parent.name == "test" and not path.stem.startswith(("test-fast", "test-celeb"))
    }
    assert len(plain) == 28
    for stem, path in plain.items():
        fast = config_dict(read_test_config(path.with_stem(stem.replace("test-", "test-fast-"))))
        assert fast == {**config_dict(read_test_config(path)), "cell_max_scale": 4}


def test_shipped_damage_is_what_its_name_says() -> None:
    kinds = {"jpeg": "quality", "noise": "sigma", "blur": "sigma"}
    for path in DAMAGE:
        name, amount = path.stem.split("-")
        (step,) = read_degrade(path).given
        assert (step["name"], step[kinds[name]]) == (name, float(amount))
    assert len(DAMAGE) == 8


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_study_passes_the_check(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its suites are, and wherever it is started."""
    monkeypatch.chdir(tmp_path)
    for suite in yaml.safe_load(path.read_text())["test"]["suites"]:
        known = suite in SUITES
        (find_suite(suite, Path("load")).high if known else Path(suite)).mkdir(parents=True)
    study = read_study(path)
    assert len(study.runs) == len(study.config.variants) * len(study.config.seeds)
