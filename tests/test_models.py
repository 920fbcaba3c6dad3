"""Encoders and specifications, against figures of the published implementation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from tests.conformance import arrays, cases, checkpoints, error, fill_weights, float32, rng
from utils import ConfigError, DataError, calc_psnr, make_coord

SMALL = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}}
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}}


def small_liif(**args: Any) -> dict[str, Any]:
    return {"name": "liif", "args": {"encoder_spec": SMALL, "imnet_spec": IMNET, **args}}


@pytest.mark.parametrize("name", cases("encoder"))
def test_encoder_gives_published_features(name: str) -> None:
    case = cases("encoder")[name]
    encoder = fill_weights(models.make(case["spec"]))
    short = name.split("/", 1)[1]
    inp = float32(rng("input:" + short).uniform(-1, 1, (2, 3, 9, 7)))
    with torch.no_grad():
        features = encoder(inp)
    assert list(features.shape) == case["shape"]
    assert encoder.out_dim == case["out_dim"]
    assert features.shape[-1] == encoder.upscale * 7
    # Relative to the largest: small values that large ones sum up to carry the rounding of these.
    # The published features, of magnitude 30, are themselves up to 3e-5 of a value away from those
    # in float64, and processors without AVX-512 as far on the other side.
    published = arrays()[name + "/y"]
    size = published.abs().max().clamp(min=1)
    assert error(features[:, :8] / size, published / size) < 1e-5


@pytest.mark.parametrize("name", checkpoints())
def test_state_dict_is_the_published_one(name: str) -> None:
    published = checkpoints()[name]
    with torch.device("meta"):
        model = models.make(published["model"])
    state = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert list(state.items()) == list(published["state_dict"].items())
    assert sum(p.numel() for p in model.parameters()) == published["num_params"]


def test_every_registered_model_has_a_published_state_dict() -> None:
    built = {part for entry in checkpoints().values() for part in names_in(entry["model"])}
    assert built == {"edsr", "edsr-baseline", "liif", "metasr", "mlp", "rcan", "rdn"}
    assert built <= set(models.models_registry.makers)


def names_in(spec: dict[str, Any]) -> set[str]:
    nested = [value for value in spec["args"].values() if isinstance(value, dict)]
    return {spec["name"]}.union(*(names_in(value) for value in nested))


@pytest.mark.parametrize("name", sorted(set(names_in(small_liif())) | {"metasr"}))
def test_make_leaves_its_specification_alone(name: str) -> None:
    spec = {"mlp": IMNET, "edsr-baseline": SMALL, "liif": small_liif()}.get(
        name, {"name": "metasr", "args": {"encoder_spec": SMALL}}
    )
    before = copy.deepcopy(spec)
    models.make(spec, args={"in_dim": 5} if name == "mlp" else None)
    assert spec == before


def test_args_override_those_of_the_specification() -> None:
    assert models.make(SMALL, args={"n_feats": 6}).out_dim == 6


def test_initial_weights_follow_torchs_seed() -> None:
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(nn.utils.parameters_to_vector(models.make(small_liif()).parameters()))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def receptive_radius(model: nn.Module, length: int) -> int:
    """How far along a row the centre of the output sees, by its gradient."""
    inp = torch.zeros(1, 3, 3, length, dtype=torch.float64, requires_grad=True)
    out = model(inp)
    columns = out.shape[-1] // length
    centre = length // 2 * columns
    out[..., centre : centre + columns].sum().backward()
    seen = inp.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    return max(length // 2 - seen.min().item(), seen.max().item() - length // 2)


@pytest.mark.parametrize("scale", [None, 2, 3, 4, 8])
@pytest.mark.parametrize("name", ["edsr", "rdn"])
def test_halo_is_the_receptive_radius(name: str, scale: int | None) -> None:
    args: dict[str, Any] = {"no_upsampling": True} if scale is None else {"scale": scale}
    if name == "rdn":
        if scale == 8:
            pytest.skip("rdn has no scale 8")
        args |= {"G0": 4, "RDNconfig": "A"}
    else:
        args |= {"n_resblocks": 2, "n_feats": 4, "res_scale": 1}
    model = models.make({"name": name, "args": args})
    for module in model.modules():  # positive weights: nothing cancels, no ReLU closes
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            nn.init.constant_(module.bias, 1.0)
    # Float64: influences become as small as 1e-60.
    assert receptive_radius(model.double(), 2 * model.halo + 7) == model.halo


def test_rcan_sees_everything() -> None:
    args = {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 8, "reduction": 4}
    model = models.make({"name": "rcan", "args": {**args, "no_upsampling": True}})
    assert model.halo is None
    assert models.make(small_liif(encoder_spec={"name": "rcan", "args": {}})).halo is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "lif", "args": {}}, "did you mean 'liif'"),
        ({"name": "edsr", "args": {"n_feat": 3}}, "did you mean 'n_feats'"),
        ({"name": "edsr", "args": {"scale": 5}}, "2, 3, 4, 8"),
        ({"name": "rdn", "args": {"RDNconfig": "C"}}, "'A', 'B'"),
        ({"name": "rdn", "args": {"RDNkSize": 4}}, "odd"),
        ({"name": "rcan", "args": {"n_feats": 8}}, "at most n_feats"),
        ({"name": "mlp", "args": {"in_dim": 3, "out_dim": 3, "hidden_list": [0]}}, "at least 1"),
        (small_liif(imnet_spec=SMALL), "imnet_spec.name: 'edsr-baseline' given; allowed: mlp"),
        (small_liif(imnet_spec={**IMNET, "args": {"out_dim": 4, "hidden_list": []}}), "allowed: 3"),
        (small_liif(encoder_spec={**IMNET, "args": {**IMNET["args"], "in_dim": 3}}), "an encoder"),
        (small_liif(imnet_spec=None), "imnet_spec: absent"),
        (small_liif(local_ensemble="yes"), "true or false"),
    ],
)
def test_impossible_specification_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        models.make(spec)
    assert "\n" not in str(caught.value)


def test_weights_load_strictly() -> None:
    spec = small_liif()
    torch.manual_seed(1)
    state = models.make(spec).state_dict()
    loaded = models.make({**spec, "sd": state}, load_sd=True).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imnet.layers.0.bias": None}, "missing imnet.layers.0.bias"),
        ({"strange": torch.zeros(1)}, "unknown strange"),
        ({"imnet.layers.0.bias": torch.zeros(3)}, r"imnet.layers.0.bias \(3,\) instead of \(8,\)"),
        ({"imnet.layers.0.bias": "text"}, r"imnet.layers.0.bias \(str\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    spec = small_liif()
    state = {**models.make(spec).state_dict(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(DataError, match=message) as caught:
        models.make({**spec, "sd": state}, load_sd=True)
    assert "\n" not in str(caught.value)


def test_weights_that_are_absent_are_refused() -> None:
    with pytest.raises(DataError, match="no state dict"):
        models.make(small_liif(), load_sd=True)


def test_published_weights_load(reference: Path) -> None:
    stored = reference / "weights" / "edsr-baseline-liif.pth"
    checkpoint = torch.load(stored, map_location="cpu", weights_only=True)
    model = models.make(checkpoint["model"], load_sd=True)
    assert sum(p.numel() for p in model.parameters()) == 1_567_323


def test_coordinates_are_the_published_ones() -> None:
    assert torch.equal(make_coord((4, 6)), arrays()["coord/4x6/y"])
    ranges = ((0, 1), (-2, 2))
    assert torch.equal(make_coord((3, 5), ranges), arrays()["coord/4x6/yr"])


def test_psnr_is_the_published_one() -> None:
    r = rng("psnr")
    sr = float32(r.uniform(0, 1, (2, 3, 40, 44)))
    hr = (sr + 0.05 * float32(r.standard_normal(sr.shape))).clamp(0, 1)
    for key, value in cases("psnr")["psnr"]["values"].items():
        dataset, scale = key.rsplit("-", 1)
        given = None if dataset == "None" else dataset
        assert np.isclose(calc_psnr(sr, hr, given, int(scale)).item(), value, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (lambda maps: maps[:, :, 1:-1, 1:-1], r"a map \(2, 4, 4, 5\)"),
        (lambda maps: torch.nn.functional.interpolate(maps, scale_factor=2), r"\(2, 4, 12, 14\)"),
        (lambda maps: maps[:, :3], r"a map \(2, 3, 6, 7\)"),
        (lambda maps: maps[:1], r"a map \(1, 4, 6, 7\)"),
        (lambda maps: maps.flatten(2), r"a map \(2, 4, 42\)"),
        (lambda maps: [maps], "a list"),
    ],
)
def test_an_encoder_gives_what_it_says(change: Any, given: str) -> None:
    """Of a map that is larger, training would be right, and rendering wrong."""
    model = models.make(small_liif())
    model.encoder.register_forward_hook(lambda layer, inp, made: change(made))
    message = given + r".* allowed: a map \(2, 4, 6, 7\), by its out_dim 4 and upscale 1"
    with pytest.raises(ConfigError, match=message):
        model.gen_feat(torch.zeros(2, 3, 6, 7))


@pytest.mark.parametrize("name", ["edsr", "rcan", "rdn"])
def test_bf16_does_not_round_pixels(name: str) -> None:
    """Pixels that bfloat16 can't tell from 1 still make a difference to the features."""
    size = {"edsr": {"n_feats": 8}, "rcan": {"n_feats": 8, "reduction": 4}, "rdn": {"G0": 8}}[name]
    encoder = models.make({"name": name, "args": {**size, "no_upsampling": True}})
    first = encoder.SFENet1 if name == "rdn" else encoder.head
    seen = []
    first.register_forward_hook(lambda layer, given, made: seen.append((given[0], made)))
    inp = torch.full((1, 3, 4, 4), 1 - 2**-10)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoder(inp)
    given, made = seen[0]
    assert torch.equal(given, inp)
    assert made.dtype == torch.float32
