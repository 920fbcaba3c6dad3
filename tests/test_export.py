"""Models handed on as safetensors and ONNX, and read back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from engine.weights.checkpoint import save_checkpoint
from engine.weights.pretrained import load_model
from models.protocol import maps_of
from scripts import export
from utils import ConfigError, DataError, make_coord

ENCODER = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}}
FEATURES = {"name": "edsr-baseline", "args": {**ENCODER["args"], "no_upsampling": True}}
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8, 6]}}
SPECS: dict[str, dict[str, Any]] = {
    "liif": {"name": "liif", "args": {"encoder_spec": FEATURES, "imnet_spec": IMNET}},
    "liif-000": {
        "name": "liif",
        "args": {
            "encoder_spec": FEATURES,
            "imnet_spec": IMNET,
            "local_ensemble": False,
            "feat_unfold": False,
            "cell_decode": False,
        },
    },
    "metasr": {"name": "metasr", "args": {"encoder_spec": FEATURES}},
    "upsampling": {"name": "liif", "args": {"encoder_spec": ENCODER}},
    "lte": {
        "name": "lte",
        "args": {"encoder_spec": FEATURES, "imnet_spec": IMNET, "hidden_dim": 8},
    },
    "lte-fast": {"name": "lte-fast", "args": {"encoder_spec": FEATURES, "hidden_dim": 8}},
}


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.make(SPECS[name]).eval()


def write_checkpoint(path: Path, name: str) -> nn.Module:
    """A checkpoint whose average weights are twice its own; the model of the average."""
    model = make_model(name)
    own = {key: value / 2 for key, value in model.state_dict().items()}
    spec = {**SPECS[name], "sd": own}
    save_checkpoint(path, {"model": spec, "ema": model.state_dict(), "epoch": 1})
    return model


@pytest.mark.parametrize("name", SPECS)
def test_the_plain_decoder_is_the_models(name: str) -> None:
    """What is exported is not `query_rgb` itself, and must agree with it."""
    model = make_model(name)
    encoder, decoder = export.Encoder(model), export.Decoder(model, several=name.startswith("lte"))

    def halves(inp: Tensor, *queries: Tensor) -> Tensor:
        return decoder(*maps_of(encoder(inp)), *queries)

    assert export.difference(model, halves) < 1e-6


def test_a_difference_is_seen() -> None:
    model, other = make_model("liif"), make_model("liif")
    with torch.no_grad():
        other.imnet.linears[-1].bias[1] += 1e-3  # type: ignore[union-attr]
    assert export.difference(model, other) == pytest.approx(1e-3, rel=1e-2)
    with pytest.raises(DataError, match=r"there: differs from the model by 1.0e-03"):
        export.confirm(Path("there"), model, other)


@pytest.mark.parametrize("raw", [False, True])
def test_safetensors_holds_the_weights_that_predict(
    raw: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    model = write_checkpoint(tmp_path / "m.pth", "liif")
    output = tmp_path / "m.safetensors"
    arguments = ["--model", str(tmp_path / "m.pth"), "--safetensors", str(output)]
    export.main(arguments + ["--raw-weights"] * raw)
    assert "read back, differs by at most 0" in capsys.readouterr().out
    read = load_model(output)
    for key, value in read.state_dict().items():
        assert torch.equal(value, model.state_dict()[key] / (2 if raw else 1)), key


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_onnx_graphs_answer_as_the_model_at_any_size(name: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = write_checkpoint(tmp_path / "m.pth", name)
    folder = tmp_path / "graphs"
    export.main(["--model", str(tmp_path / "m.pth"), "--onnx", str(folder)])
    assert sorted(os.listdir(folder)) == sorted(export.GRAPHS)
    read = export.OnnxModel(folder)
    assert export.difference(model, read) <= 1e-5
    inp = torch.rand(1, 3, 30, 11)
    with torch.inference_mode():
        expected = model.gen_feat(inp)  # type: ignore[operator]
    torch.testing.assert_close(read.gen_feat(inp), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lte", "lte-fast"])
def test_graphs_keep_a_phase_of_thousands_of_radians(name: str, tmp_path: Path) -> None:
    """As trained frequencies and far scales have it: float32 there is good to some 1e-4."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = make_model(name)
    with torch.no_grad():
        model.freq.weight.mul_(3000)  # type: ignore[operator, union-attr]
    inp = torch.rand(1, 3, 9, 7) * 2 - 1
    coord = make_coord((33, 20))[None]
    cell = torch.full_like(coord, 0.06)
    export.write_onnx(model, tmp_path)
    with torch.inference_mode():
        spectrum, pixels = model.gen_feat(inp)  # type: ignore[operator]
        expected = model(inp, coord, cell)
    read = export.OnnxModel(tmp_path)
    assert spectrum[:, 8:].abs().max() > 1000
    assert torch.equal(read.gen_feat(inp)[1], pixels)
    # From the same frequencies: rounding these alone would turn such phases.
    colours = read.query_rgb((spectrum, pixels), coord, cell)
    torch.testing.assert_close(colours, expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_published_weights_as_onnx(reference: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    weights = reference / "weights" / "edsr-baseline-liif.pth"
    export.main(["--model", str(weights), "--onnx", str(tmp_path / "graphs")])
    read = export.OnnxModel(tmp_path / "graphs")
    assert export.difference(load_model(weights), read) <= 1e-5


def test_bad_graphs_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(DataError, match=r"encoder.onnx: no such file"):
        export.OnnxModel(tmp_path)
    for name in export.GRAPHS:
        (tmp_path / name).write_bytes(b"no graph")
    with pytest.raises(DataError, match=r"encoder.onnx: damaged") as caught:
        export.OnnxModel(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ([], ConfigError, "--safetensors or --onnx: missing"),
        (["--safetensors", "m.pt"], ConfigError, "allowed: NAME.safetensors"),
        (["--safetensors", "/proc/m.safetensors"], DataError, "can't be written"),
        (["--onnx", "m.pth/graphs"], DataError, "can't be written (Not a directory"),
    ],
)
def test_bad_options(
    arguments: list[str],
    kind: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "m.pth", "liif")
    with pytest.raises(kind) as caught:
        export.main(["--model", "m.pth", *arguments])
    assert message in str(caught.value)
    assert os.listdir() == ["m.pth"]
