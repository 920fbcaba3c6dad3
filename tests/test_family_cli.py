"""Each registered decoder and encoder through the commands: trained, resumed, tested, handed on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import models
from engine.render import ContinuousImage
from engine.weights.checkpoint import load_checkpoint
from engine.weights.pretrained import load_model
from liif import load_model as from_hub
from scripts import export
from tests.commands import Commands
from tests.runs import RUN, WarmRuns, outcome, tiny_config, write_config
from tests.test_family import EDSR, IMNET, SPECS, SWINIR
from utils import ConfigError

SMALL = {"n_feats": 8, "n_resblocks": 1, "no_upsampling": True}
ENCODERS: dict[str, dict[str, Any]] = {
    "edsr-baseline": EDSR,
    "edsr": {"name": "edsr", "args": SMALL},
    "rdn": {"name": "rdn", "args": {"G0": 4, "RDNconfig": "A", "no_upsampling": True}},
    "rcan": {"name": "rcan", "args": {**SMALL, "n_resgroups": 1, "reduction": 2}},
    "swinir": SWINIR,
}
MODELS = {
    "liif": {"encoder_spec": EDSR, "imnet_spec": IMNET},
    "metasr": {"encoder_spec": EDSR},
    **SPECS,
    **{
        f"liif on {name}": {"encoder_spec": spec, "imnet_spec": IMNET}
        for name, spec in ENCODERS.items()
        if name != "edsr-baseline"
    },
}


def model_of(name: str) -> dict[str, Any]:
    return {"name": name.split()[0], "args": MODELS[name]}


def test_every_registered_name_is_in_the_sweep() -> None:
    named = {name.split()[0] for name in MODELS} | set(ENCODERS) | {"mlp", "lmmlp"}
    own = {
        name
        for name, make in models.models_registry.makers.items()
        if make.__module__.startswith("models.")
    }
    assert named == own


QUICK = {"sronet", "ciaosr", "lmliif", "liif on swinir"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in MODELS],
)
def test_trained_resumed_tested_and_handed_on(
    warm: WarmRuns, commands: Commands, tmp_path: Path, name: str
) -> None:
    """Two epochs, and one epoch that is gone on from: the same bits, and files that agree."""
    write_config(tmp_path, model=model_of(name), epoch_max=2, ema_decay=None)
    code, text = warm.run(tmp_path, "--name", "whole")
    assert code == 0, text
    assert warm.run(tmp_path, "--set", "epoch_max=1")[0] == 0
    code, text = warm.run(tmp_path, "--resume", "auto")
    assert code == 0, text
    assert outcome(tmp_path / RUN) == outcome(tmp_path / "save/whole")

    path = tmp_path / RUN / "epoch-last.pth"
    part = {**tiny_config()["val_dataset"], "batch_size": 1}
    part["wrapper"] = {"name": "sr-implicit-downsampled", "args": {"scale_min": 2, "scale_max": 2}}
    norm = tiny_config()["data_norm"]
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"test_dataset": part, "data_norm": norm, "eval_type": "div2k-2"})
    )
    size = "--set", "eval_type=null"
    ended = commands.run(
        "test.py", "--config", "test.yaml", "--model", path, *size, folder=tmp_path
    )
    assert ended.code == 0, ended
    assert 5 < float(ended.out.split("result: ")[1]) < 40

    given = ("--input", "pictures/0.png", "--model", path, "--scale", "2.7", "--output", "big.png")
    ended = commands.run("demo.py", *given, folder=tmp_path)
    assert ended.code == 0, ended
    big = np.asarray(Image.open(tmp_path / "big.png"))
    assert big.shape == (54, 65, 3)

    image = ContinuousImage.represent(str(tmp_path / "pictures/0.png"), path, device="cpu")
    rendered = image.render(54, 65)
    assert np.abs(rendered.permute(1, 2, 0).numpy() * 255 - big).max() < 0.51
    image.save(tmp_path / "picture.liif")
    again = ContinuousImage.load(tmp_path / "picture.liif", "cpu")
    assert torch.equal(again.render(54, 65), rendered)

    export.write_safetensors(tmp_path / "m.safetensors", model_of(name), load_model(path))
    states = [load_model(tmp_path / "m.safetensors"), from_hub(path)]
    for state in (one.state_dict() for one in states):
        for key, value in load_checkpoint(path)["model"]["sd"].items():
            assert torch.equal(state[key], value), key


# As SRNO's file has it, but for sizes: their wrappers, their schedule, `lr: 4.e-5` as text.
PUBLISHED_SHAPE = """
train_dataset:
  dataset: {name: image-folder, args: {root_path: pictures, repeat: 2, cache: in_memory}}
  wrapper:
    name: sr-implicit-downsampled-fast
    args: {inp_size: 4, scale_max: 4, augment: true}
  batch_size: 4
val_dataset:
  dataset: {name: image-folder, args: {root_path: pictures, first_k: 2, cache: in_memory}}
  wrapper: {name: sr-implicit-downsampled-fast, args: {scale_min: 2, scale_max: 2}}
  batch_size: 1
data_norm:
  inp: {sub: [0.5], div: [0.5]}
  gt: {sub: [0.5], div: [0.5]}
optimizer: {name: adam, args: {lr: 4.e-5}}
epoch_max: 2
warmup_step_lr: {multiplier: 10, total_epoch: 1}
eval_type: benchmark-2
eval_bsize: 500
epoch_val: 1
epoch_save: 1
resume: null
num_workers: 0
"""


def test_a_file_in_the_shape_of_its_authors_trains(warm: WarmRuns, tmp_path: Path) -> None:
    write_config(tmp_path)
    args = {**SPECS["sronet"], "width": 32, "blocks": 4}
    model = yaml.safe_dump({"model": {"name": "sronet", "args": args}})
    (tmp_path / "tiny.yaml").write_text(PUBLISHED_SHAPE + model)
    code, text = warm.run(tmp_path)
    assert code == 0, text
    assert re.findall(r"train: .* lr=([0-9.e-]+)", text) == ["4.00e-05", "4.00e-04"]
    assert len((tmp_path / RUN / "losses.csv").read_text().splitlines()) == 1 + 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_falls(warm: WarmRuns, tmp_path: Path, name: str) -> None:
    """Over 300 steps: less than at the start, by the mean of 30."""
    write_config(tmp_path, model=model_of(name), epoch_max=60, epoch_val=60, multi_step_lr=None)
    code, text = warm.run(tmp_path, "--set", "optimizer.args.lr=0.001")
    assert code == 0, text
    lines = (tmp_path / RUN / "losses.csv").read_text().splitlines()
    column = lines[0].split(",").index("loss")
    losses = [float(line.split(",")[column]) for line in lines[1:]]
    assert len(losses) == 300
    assert np.mean(losses[-30:]) < np.mean(losses[:30])


REFUSED = {
    "sronet": "colours depend on a mean over all pixels asked for",
    "ciaosr": "attention takes as many steps as the picture's size needs",
    "liif on swinir": "encoder swinir's windows and masks depend on the picture's size",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_can_do_is_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ConfigError, match=REFUSED[name]):
        export.write_onnx(models.make(model_of(name)).eval(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in REFUSED])
def test_graphs_answer_as_the_model(name: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = models.make(model_of(name)).eval()
    export.write_onnx(model, tmp_path)
    assert export.difference(model, export.OnnxModel(tmp_path)) <= 1e-5


def test_misuse_is_one_line(commands: Commands, tmp_path: Path) -> None:
    sronet = {"name": "sronet", "args": {**SPECS["sronet"], "encoder_spec": EDSR}}
    write_config(tmp_path, "sronet.yaml", model=sronet)
    ended = commands.run("train_liif.py", "--config", "sronet.yaml", folder=tmp_path)
    assert (ended.code, "gives 8 channels; allowed: 64" in ended.line) == (2, True)

    spec = model_of("ciaosr")
    path = tmp_path / "ciaosr.pth"
    torch.save({"model": {**spec, "sd": models.make(spec).state_dict()}}, path)
    Image.new("RGB", (9, 1)).save(tmp_path / "thin.png")
    given = ("--input", "thin.png", "--model", path, "--scale", "2")
    ended = commands.run("demo.py", *given, folder=tmp_path)
    assert (ended.code, ended.line) == (
        1,
        "a picture of 1x9 pixels; ciaosr takes 2x2 and more",
    )

    write_config(tmp_path, "lte.yaml", model=model_of("lte"))
    refused = {
        "--init": "ciaosr.pth: the weights do not fit model 'LTE': missing coef.weight",
        "--resume": "ciaosr.pth: of another run (model.",
    }
    for option, message in refused.items():
        ended = commands.run("train_liif.py", "--config", "lte.yaml", option, path, folder=tmp_path)
        assert message in ended.line, option
