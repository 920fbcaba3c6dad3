"""engine.config: what files say is read, overridden and refused whole."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import (
    config_dict,
    parse_eval_type,
    read_test_config,
    read_train_config,
)
from engine.config_files import apply_overrides, parse_yaml
from utils import ConfigError

DATA = {
    "dataset": {"name": "image-folder", "args": {"root_path": "photos"}},
    "wrapper": {
        "name": "sr-implicit-downsampled",
        "args": {"inp_size": 8, "scale_max": 4, "sample_q": 16},
    },
    "batch_size": 2,
}
TRAIN: dict[str, Any] = {
    "train_dataset": DATA,
    "model": {
        "name": "liif",
        "args": {
            "encoder_spec": {"name": "edsr-baseline", "args": {"no_upsampling": True}},
            "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}},
        },
    },
    "optimizer": {"name": "adam", "args": {"lr": "1e-4"}},
    "epoch_max": 3,
}


def test_text_that_reads_as_a_number_is_one() -> None:
    config = read_train_config(TRAIN)
    assert config.optimizer.lr == 1e-4
    assert config.seed == 0
    assert config.save_minutes == 10
    assert TRAIN["optimizer"]["args"]["lr"] == "1e-4"


def test_round_trip_through_its_own_dictionary() -> None:
    config = read_train_config(TRAIN)
    again = yaml.safe_load(yaml.safe_dump(config_dict(config)))
    assert read_train_config(again) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epoch_mx=3", "epoch_mx: unknown key 'epoch_mx' (did you mean 'epoch_max'?)"),
        ("epoch_max=0", "epoch_max: 0 given; allowed: an integer of at least 1"),
        ("train_dataset.batch_size=0", "train_dataset.batch_size: 0 given"),
        ("optimizer.name=adm", "optimizer.name: 'adm' given; allowed: 'adam', 'sgd' (did you mean"),
        ("optimizer.args.lr=fast", "optimizer.args.lr: 'fast' given; allowed: a number above 0"),
        ("optimizer.args.lr=-1", "optimizer.args.lr: -1 given; allowed: a number above 0"),
        ("optimizer.args={}", "optimizer.args.lr: missing"),
        ("optimizer.args.momentum=1", "optimizer.args.momentum: unknown key 'momentum'"),
        ("multi_step_lr={milestones: [-1]}", "multi_step_lr.milestones[0]: -1 given"),
        ("multi_step_lr={milestones: [4, 2]}", "allowed: epochs in rising order"),
        ("precision=fp8", "precision: 'fp8' given; allowed: 'fp32', 'bf16', 'fp16'"),
        ("accumulate=3", "accumulate: 3 given; allowed: divisors of the batch size 2"),
        ("eval_type=set5", "eval_type: 'set5' given; allowed: none, div2k-S or benchmark-S"),
        ("data_norm.inp={sub: [0.5, 1], div: [0.5]}", "data_norm.inp.sub: [0.5, 1] given"),
        ("data_norm.inp={sub: [0.5], div: [0]}", "data_norm.inp.div: [0] given"),
        ("model.name=lif", "model.name: unknown model 'lif' (did you mean 'liif'?)"),
        ("model.args.encoder_spec.name=edsr-base", "(did you mean 'edsr-baseline'?)"),
        ("model.args.encoder_spec.args.n_feat=3", "(did you mean 'n_feats'?)"),
        ("model.args.imnet_spec.args.hidden_list=[0]", "imnet_spec.args.hidden_list[0]: 0 given"),
        ("train_dataset.dataset.name=imagefolder", "(did you mean 'image-folder'?)"),
        ("train_dataset.dataset.args.cache=disk", "dataset.args.cache: 'disk' given"),
        ("train_dataset.wrapper.args.scale_min=5", "scale_min"),
        ("train_dataset.wrapper.args.dataset=x", "unknown key 'dataset'"),
        ("lr_schedule={name: cosine, warmup: -1}", "lr_schedule.warmup: -1 given"),
    ],
)
def test_each_mistake_is_named(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_train_config(TRAIN, [override])
    assert expected in str(caught.value)


def test_all_mistakes_in_one_message() -> None:
    overrides = ["epoch_max=x", "model.name=lif", "seed=-1", "wings=2", "optimizer.args.lr=0"]
    with pytest.raises(ConfigError) as caught:
        read_train_config(TRAIN, overrides)
    message = str(caught.value)
    assert message.startswith("configuration: 5 problems")
    assert len(message.splitlines()) == 6


def test_mistakes_between_values_are_named_beside_others() -> None:
    overrides = ["epoch_max=0", "eval_type=foo", "accumulate=3"]
    with pytest.raises(ConfigError) as caught:
        read_train_config(TRAIN, overrides)
    message = str(caught.value)
    assert all(f"{key.split('=')[0]}: " in message for key in overrides), message
    assert message.startswith("configuration: 3 problems")


OTHERS = "lr_schedule={name: cosine, min_lr: 1}"
SAMPLED = f"val_dataset={json.dumps(DATA)}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer={name: adam}"], ["optimizer.args.lr: missing; allowed: a number above 0"]),
        (
            ["optimizer={name: adam, lr: 1}"],
            [
                "optimizer.lr: unknown key 'lr'; allowed: name, args",
                "optimizer.args.lr: missing; allowed: a number above 0",
            ],
        ),
        (
            ["optimizer.args=3"],
            ["optimizer.args: 3 given; allowed: keys with values"],
        ),
        (
            ["optimizer.args.lr=0", OTHERS],
            [
                "optimizer.args.lr: 0 given; allowed: a number above 0",
                "lr_schedule.min_lr: 1 given; allowed: up to the optimiser's rate 0",
            ],
        ),
        (
            ["optimizer.args.lr=fast", OTHERS, "accumulate=3"],
            [
                "optimizer.args.lr: 'fast' given; allowed: a number above 0",
                "accumulate: 3 given; allowed: divisors of the batch size 2",
            ],
        ),
        (
            ["optimizer.args.betas=[0.9, 1]", OTHERS],
            [
                "optimizer.args.betas[1]: 1 given; allowed: a number of at least 0 and below 1",
                "lr_schedule.min_lr: 1 given; allowed: up to the optimiser's rate 0.0001",
            ],
        ),
        (
            ["optimizer={name: sgd, args: {lr: x, nesterov: true, momentum: 0}}"],
            [
                "optimizer.args.lr: 'x' given; allowed: a number above 0",
                "optimizer.args.nesterov: true given; allowed: with a momentum above 0 and a "
                "dampening of 0",
            ],
        ),
        (
            ["optimizer={name: sgd, args: {lr: 1, nesterov: true, momentum: x}}"],
            ["optimizer.args.momentum: 'x' given; allowed: a number of at least 0"],
        ),
        (
            ["train_dataset.dataset.name=folder", "accumulate=3"],
            [
                "train_dataset.dataset.name: unknown data set 'folder' (did you mean "
                "'image-folder'?)",
                "accumulate: 3 given; allowed: divisors of the batch size 2",
            ],
        ),
        (
            ["train_dataset=3", "accumulate=3", OTHERS],
            [
                "train_dataset: 3 given; allowed: keys with values",
                "lr_schedule.min_lr: 1 given; allowed: up to the optimiser's rate 0.0001",
            ],
        ),
        (
            ["accumulate=0", OTHERS],
            [
                "accumulate: 0 given; allowed: an integer of at least 1",
                "lr_schedule.min_lr: 1 given; allowed: up to the optimiser's rate 0.0001",
            ],
        ),
        (
            ["multi_step_lr={milestones: [4, -2], gamma: 0}", "lr_schedule={name: cosine}"],
            [
                "multi_step_lr.milestones[1]: -2 given; allowed: an integer of at least 1",
                "multi_step_lr.gamma: 0 given; allowed: a number above 0",
                "multi_step_lr.milestones: [4, -2] given; allowed: epochs in rising order",
                "lr_schedule: given beside multi_step_lr; allowed: one of the two",
            ],
        ),
        (
            ["data_norm.inp={sub: [x], div: [0, 1]}"],
            [
                "data_norm.inp.sub[0]: 'x' given; allowed: a number",
                "data_norm.inp.div: [0, 1] given; allowed: 1 or 3 numbers",
                "data_norm.inp.div: [0, 1] given; allowed: numbers other than 0",
            ],
        ),
        (
            [SAMPLED, "eval_type=div2k-4", "val_dataset.wrapper.args.scale_max=x", "eval_bsize=0"],
            [
                "val_dataset.wrapper.args.scale_max: 'x' given",
                "eval_bsize: 0 given; allowed: an integer of at least 1 or none",
                "val_dataset.wrapper.args.sample_q: 16 given beside eval_type 'div2k-4'",
            ],
        ),
        (
            ["train_dataset.wrapper.args={inp_size: x, scale_min: 3, scale_max: 2}"],
            [
                "train_dataset.wrapper.args.inp_size: 'x' given",
                "train_dataset.wrapper.args.scale_min: 3 given; allowed: at most scale_max, 2",
            ],
        ),
        (
            ["train_dataset.wrapper.args={scale_min: x, scale_max: 2}"],
            ["train_dataset.wrapper.args.scale_min: 'x' given"],
        ),
    ],
)
def test_what_can_be_told_is_told_at_once(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_train_config(TRAIN, overrides)
    text = str(caught.value).removeprefix("configuration: ")
    told = text.split("\n  ")[1:] if "\n" in text else [text]
    assert len(told) == len(expected), text
    for line, start in zip(told, expected, strict=True):
        assert line.startswith(start), text
    assert "typing" not in text
    assert "<class" not in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            [
                "eval_type=div2k-4",
                f"val_dataset={json.dumps(TRAIN['train_dataset'])}",
                "val_dataset.wrapper.args.sample_q=9",
            ],
            "val_dataset.wrapper.args.sample_q: 9 given beside eval_type 'div2k-4'",
        ),
        (
            ["multi_step_lr=null", "lr_schedule={name: cosine, min_lr: 1}"],
            "lr_schedule.min_lr: 1 given; allowed: up to the optimiser's rate",
        ),
    ],
)
def test_values_that_do_not_go_together(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_train_config(TRAIN, overrides)
    assert expected in str(caught.value)


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        read_train_config({})
    for key in ("train_dataset", "model", "optimizer", "epoch_max"):
        assert f"{key}: missing" in str(caught.value)


def test_one_schedule_only() -> None:
    overrides = ["multi_step_lr={milestones: [1]}", "lr_schedule={name: cosine}"]
    with pytest.raises(ConfigError, match="lr_schedule: given beside multi_step_lr"):
        read_train_config(TRAIN, overrides)
    overrides[0] = "multi_step_lr=null"
    overrides.append("warmup_step_lr={multiplier: 10, total_epoch: 1}")
    with pytest.raises(ConfigError, match="warmup_step_lr: given beside lr_schedule"):
        read_train_config(TRAIN, overrides)
    with pytest.raises(ConfigError, match=r"multiplier: 1 given; allowed: .* above 1"):
        read_train_config(TRAIN, [overrides[0], "warmup_step_lr={multiplier: 1, total_epoch: 1}"])


def test_bad_images_are_not_skipped_on_the_device() -> None:
    with pytest.raises(ConfigError, match="on_bad_image: 'skip' given beside device_data"):
        read_train_config(TRAIN, ["device_data=true", "on_bad_image=skip"])
    read_train_config(TRAIN, ["device_data=true", "on_bad_image=stop"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "no YAML"),
        ("a: !!python/object/apply:os.system ['true']", "no YAML (could not determine"),
        ("a: 1\nb: {c: 2,\n  c: 3}", "config.yaml: 'c' given again in line 3; allowed: once"),
        ("- 1\n- 2", "allowed: keys with values"),
        ("\x00", "no YAML"),
        ("", "allowed: keys with values"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_train_config(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_merged_key_is_not_given_again() -> None:
    text = "one: &a {lr: 1, eps: 2}\ntwo: &b {<<: *a, lr: 3}\n<<: *b\nsix: {<<: *b, <<: *a, eps: 4}"
    two = {"lr": 3, "eps": 2}
    expected = {"one": {"lr": 1, "eps": 2}, "two": two, **two, "six": {"lr": 3, "eps": 4}}
    assert parse_yaml(text, "a.yaml") == expected


def test_missing_file_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        read_test_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_test_config(tmp_path / "binary.yaml")


def test_overrides_set_make_and_index() -> None:
    raw: dict[str, Any] = {"a": {"b": [1, {"c": 2}]}}
    apply_overrides(raw, ["a.b.1.c=[x, 1e-4]", "d.e=true", "f=", "a.b.0={g: 1}"])
    assert raw == {"a": {"b": [{"g": 1}, {"c": ["x", "1e-4"]}]}, "d": {"e": True}, "f": None}


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", "a.b.7=1", "a.b.x.y=1", "c=[1"])
def test_overrides_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"a": {"b": [1]}, "c": 2}, [override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (None, (1, 1))),
        ("div2k-4", ("div2k", (4, 4))),
        ("benchmark-2.5", ("benchmark", (2.5, 2.5))),
        ("benchmark-2x3.5", ("benchmark", (2, 3.5))),
    ],
)
def test_eval_types(text: str | None, expected: Any) -> None:
    assert parse_eval_type(text) == expected


@pytest.mark.parametrize("text", ["", "div2k", "div2k-", "div2k-0", "benchmark-1x2x3", "set5-2"])
def test_eval_types_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="eval_type"):
        parse_eval_type(text)


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
paths = [
    "train_dataset",
    "train_dataset.dataset",
    "train_dataset.dataset.args",
    "train_dataset.batch_size",
    "train_dataset.wrapper",
    "train_dataset.wrapper.args.scale_max",
    "train_dataset.wrapper.name",
    "model",
    "model.name",
    "model.args",
    "model.args.encoder_spec",
    "model.args.imnet_spec.args.hidden_list",
    "model.args.encoder_spec.args",
    "optimizer",
    "optimizer.name",
    "optimizer.args.lr",
    "optimizer.args",
    "epoch_max",
    "multi_step_lr",
    "lr_schedule",
    "warmup_step_lr",
    "data_norm",
    "data_norm.inp",
    "eval_type",
    "seed",
    "init",
    "extra",
]


@settings(max_examples=400, deadline=None)
@given(path=st.sampled_from(paths), value=junk)
def test_junk_anywhere_is_read_or_refused(path: str, value: Any) -> None:
    raw = copy.deepcopy(TRAIN)
    place = raw
    *steps, last = path.split(".")
    for step in steps:
        place = place.setdefault(step, {})
    place[last] = value
    message = ""
    try:
        read_train_config(raw)
    except ConfigError as error:
        message = str(error)
    assert not message or path.split(".")[0] in message


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_as_a_file(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read_train_config(path)


def test_a_file_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_train_config(tmp_path / "no.yaml")
    assert str(raised.value) == f"{tmp_path}/no.yaml: can't be read (No such file or directory)"
