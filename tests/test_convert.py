"""Checkpoints in mmagic's names: those of CiaoSR and of its LIIF, made here by the way back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from engine.normalisation import norm_of
from engine.weights import load_checkpoint, load_model
from engine.weights.__main__ import main
from utils import DataError, make_coord

IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [12, 8]}}
ENCODERS: dict[str, dict[str, Any]] = {
    "edsr-baseline": {"n_resblocks": 11, "n_feats": 4, "no_upsampling": True},
    "rdn": {"G0": 4, "RDNconfig": "A", "no_upsampling": True},
    "swinir": {"tail": False, "embed_dim": 8, "depths": [2, 3], "num_heads": [2, 4]},
}
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def made(decoder: str, encoder: str) -> nn.Module:
    spec = {"encoder_spec": {"name": encoder, "args": ENCODERS[encoder]}, "imnet_spec": IMNET}
    torch.manual_seed(0)
    return models.make({"name": decoder, "args": spec}).eval()


def their_name(name: str) -> str | None:
    """What mmagic calls a weight of ours; None for what its files don't hold."""
    parts = name.split(".")
    if parts[0] != "encoder":
        return name
    kind, rest = parts[1], parts[2:]
    if kind in ("sub_mean", "add_mean"):
        return None
    if kind == "head":
        return f"conv_first.{rest[1]}"
    if kind == "body" and len(rest) == 2:
        return f"conv_after_body.{rest[1]}"
    if kind == "body":
        convolution = {"0": "conv1", "2": "conv2"}[rest[2]]
        return f"body.{rest[0]}.{convolution}.{rest[3]}"
    if kind in ("SFENet1", "SFENet2"):
        return f"sfe{kind[-1]}.{rest[0]}"
    if kind == "RDBs" and rest[1] == "LFF":
        return f"rdbs.{rest[0]}.lff.{rest[2]}"
    if kind == "RDBs":
        return f"rdbs.{rest[0]}.layers.{rest[2]}.conv.{rest[5]}"
    if kind == "GFF":
        return f"gff.{rest[0]}.{rest[1]}"
    return ".".join(parts[1:])  # SwinIR


def their_state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict().items()
    return {f"generator.{new}": value for name, value in state if (new := their_name(name))}


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"meta": {"iter": 1000, "config": "model = dict()"}, "state_dict": state}, path)
    return path


@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [("ciaosr", encoder) for encoder in ENCODERS] + [("liif", "edsr-baseline"), ("liif", "rdn")],
)
def test_a_converted_model_gives_the_same_values(
    decoder: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made(decoder, encoder)
    file, output = write(tmp_path / "theirs.pth", their_state(model)), tmp_path / "ours.pth"
    main(["convert", str(file), str(output)])
    assert capsys.readouterr().out.endswith(f"{output}: whole\n")
    converted = load_model(output)
    assert norm_of(converted).inp.sub == norm_of(converted).gt.sub == list(DIV2K_MEAN)
    coord = make_coord((9, 10))[None]
    inp, cell = torch.rand(1, 3, 6, 7), torch.tensor([2 / 9, 2 / 10]).expand_as(coord)
    with torch.no_grad():
        assert torch.equal(converted(inp, coord, cell), model(inp, coord, cell))
    args = load_checkpoint(output)["model"]["args"]["encoder_spec"]["args"]
    assert args == ENCODERS[encoder]


def test_names_are_those_of_the_published_files() -> None:
    names = {name for encoder in ENCODERS for name in their_state(made("ciaosr", encoder))}
    assert {
        "generator.conv_first.weight",
        "generator.body.10.conv2.bias",
        "generator.conv_after_body.weight",
        "generator.sfe2.weight",
        "generator.rdbs.19.layers.5.conv.weight",
        "generator.rdbs.0.lff.bias",
        "generator.gff.1.weight",
        "generator.patch_embed.norm.weight",
        "generator.layers.1.residual_group.blocks.1.attn_mask",
        "generator.norm.bias",
        "generator.cs_attn.conv_match_1.1.weight",
        "generator.cs_attn.escape_NaN",
        "generator.imnet_k.layers.0.weight",
    } <= names


def test_masks_of_another_picture_are_made_anew(tmp_path: Path) -> None:
    """Those of a file belong to the picture that it was trained on; none at all are no loss."""
    model = made("ciaosr", "swinir")
    for mask in (torch.zeros(64, 64, 64), None):
        state = {
            name: mask if name.endswith("attn_mask") else value
            for name, value in their_state(model).items()
        }
        file = write(tmp_path / "a.pth", {k: v for k, v in state.items() if v is not None})
        main(["convert", str(file), str(tmp_path / "b.pth")])
        converted = load_model(tmp_path / "b.pth").state_dict()
        assert all(torch.equal(converted[k], v) for k, v in model.state_dict().items())


def without(state: dict[str, Tensor], pattern: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not re.search(pattern, name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "generator.upsample.0.bias": torch.ones(1)}, "unknown upsample.0.bias"),
        (lambda s: {**s, "discriminator.a": torch.ones(1)}, "unknown discriminator.a"),
        (lambda s: without(s, r"conv_after_body\.bias"), "missing encoder.body.11.bias"),
        (lambda s: {**s, "generator.imnet_k.layers.0.bias": torch.ones(2)}, "shape of imnet_k"),
        (lambda s: {**s, "encoder.head.0.bias": torch.ones(4)}, "two weights are encoder.head"),
        (lambda s: without(s, "imnet_q"), "no LIIF or CiaoSR in mmagic's names"),
        (lambda s: without(s, r"conv_first"), "no LIIF or CiaoSR in mmagic's names"),
        (lambda s: {**s, "generator.conv_first.weight": torch.tensor(1.0)}, "no LIIF or CiaoSR"),
        (lambda s: {**s, "generator.conv_first.weight": torch.ones(0, 3, 3, 3)}, "n_feats: 0"),
        (lambda s: {**s, "generator.conv_first.weight": torch.ones(10**6)}, "shape of encoder"),
        (lambda s: {"a": [1]}, "no LIIF or CiaoSR in mmagic's names"),
        (lambda s: [1], "no LIIF or CiaoSR in mmagic's names"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    change: Any, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "theirs.pth", change(their_state(made("ciaosr", "edsr-baseline"))))
    with pytest.raises(DataError) as caught:
        main(["convert", str(file), str(tmp_path / "ours.pth")])
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert message in text
    assert "\n" not in text
    assert not (tmp_path / "ours.pth").exists()
