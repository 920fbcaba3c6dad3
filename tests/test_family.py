"""LTE, LTE+, SRNO, CiaoSR, LM-LIIF and SwinIR, against figures of their authors' code."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from engine.config import read_train_config
from engine.evaluate.evaluate import enlarge, evaluate
from engine.normalisation import PAPER
from engine.render import ContinuousImage, tiling
from tests import family_oracle
from tests.commands import Commands
from tests.conformance import DATA, float32, rng
from utils import ConfigError, make_coord

ROOT = Path(__file__).resolve().parent.parent
NOT_FILLED = ("attn_mask", "relative_position_index", "escape_NaN")
AROUND_ONE = ("norm.weight", "norm1.weight", "norm2.weight")
NORM = 0.5
EDSR = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True}}
EDSR_64 = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "no_upsampling": True}}
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}}
SPECS: dict[str, dict[str, Any]] = {
    "lte": {"encoder_spec": EDSR, "imnet_spec": IMNET, "hidden_dim": 16},
    "lte-fast": {"encoder_spec": EDSR, "hidden_dim": 16},
    "sronet": {"encoder_spec": EDSR_64, "width": 32, "blocks": 4},
    "ciaosr": {"encoder_spec": EDSR, "imnet_spec": IMNET},
    "lmliif": {
        "encoder_spec": EDSR,
        "imnet_spec": {"name": "lmmlp", "args": {"hidden_dim": 8, "hidden_depth": 3}},
        "hypernet_spec": {"name": "mlp", "args": {"hidden_list": [24]}},
        "mod_input": True,
    },
}


class Upsampling(nn.Conv2d):
    """An encoder of 64 channels that doubles the size."""

    out_dim, upscale = 64, 2

    def __init__(self) -> None:
        super().__init__(3, 64, 3, padding=1)

    def forward(self, inp: Tensor) -> Tensor:
        return super().forward(F.interpolate(inp, scale_factor=2))


@pytest.mark.parametrize("scale", [2, 4, "64 channels"])
@pytest.mark.parametrize("name", [*SPECS, "metasr"])
def test_encoders_that_upsample(
    name: str, scale: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They work, or are refused in one line where the input is looked up beside the codes."""
    monkeypatch.setitem(models.models.models_registry.makers, "upsampling", Upsampling)
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, "scale": scale}}
    if isinstance(scale, str):
        encoder = {"name": "upsampling"}
    spec = {"name": name, "args": {**SPECS.get(name, {}), "encoder_spec": encoder}}
    times = 4 if scale == 4 else 2
    if name in ("lmliif", "metasr"):
        coord = make_coord((9, 11))[None]
        cell = torch.tensor([2 / 9, 2 / 11]).expand_as(coord)
        assert models.make(spec)(torch.zeros(1, 3, 5, 6), coord, cell).shape == (1, 99, 3)
        return
    with pytest.raises(ConfigError) as caught:
        models.make(spec)
    if name == "sronet" and scale in (2, 4):
        assert str(caught.value) == "model.args.encoder_spec: gives 3 channels; allowed: 64"
    else:
        assert str(caught.value) == (
            f"encoder_spec: an encoder that upsamples {times} times given; allowed: one that "
            "doesn't (no_upsampling: true)"
        )


@cache
def stored() -> dict[str, Any]:
    return json.loads(gzip.decompress((DATA / "family.json.gz").read_bytes()))


@cache
def arrays() -> dict[str, Tensor]:
    with np.load(DATA / "family.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def cases(kind: str) -> dict[str, dict[str, Any]]:
    return {case["name"]: case for case in stored()["cases"] if case["kind"] == kind}


def filled(model: nn.Module, case: dict[str, Any]) -> nn.Module:
    """The model with the weights of a case, each drawn by its name."""
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith(NOT_FILLED):
            state[key] = value
            continue
        drawn = rng(key).standard_normal(tuple(value.shape))
        drawn *= np.sqrt(1 / np.prod(value.shape[1:])) if value.dim() > 1 else 0.1
        drawn += key.endswith(AROUND_ONE)
        for start, factor in case.get("factors", {}).items():
            drawn *= factor if key.startswith(start) else 1
        state[key] = float32(drawn)
    model.load_state_dict(state)
    return model.eval()


def input_of(case: dict[str, Any]) -> Tensor:
    name = case["name"].split("/", 1)[1]
    inp = float32(rng("input:" + name).uniform(-1, 1, case["inp"]))
    if "mirror" in case:  # SwinIR's protocol: continued at the bottom, then at the right
        height, width = case["mirror"]
        inp = torch.cat([inp, inp.flip(-2)], dim=-2)[..., :height, :]
        inp = torch.cat([inp, inp.flip(-1)], dim=-1)[..., :width]
    return inp


def assert_near(result: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert result.shape == expected.shape
    error = (result - expected).abs().max().item()
    assert error < tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("name", cases("encoder"))
def test_encoder_gives_the_authors_features(name: str) -> None:
    case = cases("encoder")[name]
    encoder = filled(models.make(case["spec"]), case)
    with torch.no_grad():
        features = encoder(input_of(case))
    assert list(features.shape) == case["shape"]
    assert encoder.out_dim == case["out_dim"]
    assert_near(features[:, :8], arrays()[f"{name}/y"])


@pytest.mark.parametrize("make", [models.make, family_oracle.plain], ids=["ours", "plain"])
@pytest.mark.parametrize("name", cases("model"))
def test_model_gives_the_authors_values(name: str, make: Any) -> None:
    case = cases("model")[name]
    if make is family_oracle.plain and case["spec"]["name"] not in family_oracle.PLAIN:
        pytest.skip("the plain version is in tests/oracle.py, and tested there")
    model = filled(make(case["spec"]), case)
    with torch.no_grad():
        values = model(input_of(case), arrays()[f"{name}/coord"], arrays()[f"{name}/cell"])
    assert_near(values, arrays()[f"{name}/y"])


def test_an_operator_depends_on_the_set_it_is_asked() -> None:
    """SRNO in strips of rows, each a call of its own, as its training's validation asks."""
    (case,) = cases("strips").values()
    name = case["name"]
    model = filled(models.make(case["spec"]), case)
    coord, cell = arrays()[f"{name}/coord"], arrays()[f"{name}/cell"]
    with torch.no_grad():
        whole = model(input_of(case), coord, cell)
        counts = [rows * case["grid"][1] for rows in case["rows"]]
        parts = zip(coord.split(counts, 1), cell.split(counts, 1), strict=True)
        strips = torch.cat([model(input_of(case), *part) for part in parts], dim=1)
    assert_near(whole, arrays()[f"{name}/y"])
    assert_near(strips, arrays()[f"{name}/y_strips"])
    assert (whole - strips).abs().max() > 0.02


@pytest.mark.parametrize("name", cases("train"))
def test_five_steps_lose_what_the_authors_lost(name: str) -> None:
    case = cases("train")[name]
    model = filled(models.make(case["spec"]), case).train()
    r = rng("train")
    inp, coord = float32(r.uniform(0, 1, (4, 3, 12, 12))), float32(r.uniform(-1, 1, (4, 96, 2)))
    gt, cell = float32(r.uniform(0, 1, (4, 96, 3))), torch.full((4, 96, 2), 2 / 36)
    optimizer = torch.optim.Adam(model.parameters(), **case["optimizer"]["args"])
    losses = []
    for _ in range(5):
        colours = model((inp - NORM) / NORM, coord, cell)
        loss = F.l1_loss(colours, (gt - NORM) / NORM)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == pytest.approx(case["losses"], abs=1e-5)


@pytest.mark.parametrize("name", stored()["checkpoints"])
def test_state_dict_has_the_published_names_and_shapes(name: str) -> None:
    published = stored()["checkpoints"][name]
    with torch.device("meta"):
        model = models.make(published["model"])
    state = {key: list(value.shape) for key, value in model.state_dict().items()}
    buffers = {key: value[1] for key, value in published["buffers"].items()}
    assert state == {**published["state_dict"], **buffers}
    assert sum(parameter.numel() for parameter in model.parameters()) == published["num_params"]


@pytest.mark.parametrize("name", SPECS)
def test_whole_batches_agree_with_the_plain_version(name: str) -> None:
    """Values and gradients, several pictures of one scale, odd sizes."""
    spec = {"name": name, "args": SPECS[name]}
    torch.manual_seed(0)
    model, plain = models.make(spec).eval(), family_oracle.plain(spec).eval()
    plain.load_state_dict(model.state_dict())
    inp, coord = torch.rand(2, 3, 7, 6) * 2 - 1, make_coord((15, 10)).expand(2, -1, -1)
    cell = torch.tensor([2 / 15, 2 / 10]).expand_as(coord)
    values, expected = model(inp, coord, cell), plain(inp, coord, cell)
    assert_near(values, expected, 1e-5)
    for result in (values, expected):
        result.square().sum().backward()
    theirs = dict(plain.named_parameters())
    for key, parameter in model.named_parameters():
        if "_mean" not in key:
            assert parameter.grad is not None, key
            assert_near(parameter.grad, theirs[key].grad, 1e-4)


SIZE, WANTED = (21, 30), (57, 64)  # of a photograph, and of its enlargement
SWINIR = {
    "name": "swinir",
    "args": {"tail": False, "embed_dim": 8, "depths": [2], "num_heads": [2]},
}
ON_SWINIR = {name: {**SPECS[name], "encoder_spec": SWINIR} for name in ("lte", "ciaosr", "lmliif")}


def small_model(name: str, args: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return models.make({"name": name, "args": args}).eval()


def photograph(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).random((*size, 3), np.float32)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a few codes, bands of a few rows and chunks of a few queries."""
    monkeypatch.setattr(tiling, "WINDOW", 8 * 8)
    monkeypatch.setattr(tiling, "BAND", 5 * WANTED[1] * 12)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("box", [None, (3, 4.5, 15.25, 29)])
@pytest.mark.parametrize(
    ("name", "args"),
    [*SPECS.items(), *ON_SWINIR.items()],
    ids=[*SPECS, *(f"swinir-{name}" for name in ON_SWINIR)],
)
@pytest.mark.usefixtures("small_windows")
def test_tiles_and_chunks_are_the_whole(
    name: str, args: dict[str, Any], box: tuple[float, ...] | None, kept: bool
) -> None:
    model, photo = small_model(name, args), photograph()
    how: dict[str, Any] = {"keep_features": kept, "eval_bsize": 50, "window": 0}
    image = ContinuousImage.represent(photo, model, **how, statistic="asked")
    grid = tiling.Grid(SIZE, *WANTED, box)  # type: ignore[arg-type]
    rendered = image.render(*WANTED, box, clamp=False)  # type: ignore[arg-type]
    coord = torch.cartesian_prod(grid.rows, grid.columns)[None]
    inp = torch.from_numpy(photo).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        values = model(inp, coord, torch.tensor(grid.cell).expand_as(coord))
    whole = values.view(*WANTED, 3).permute(2, 0, 1) / 2 + 0.5
    assert_near(rendered, whole, 1e-5)


def mirrored_by_hand(
    model: nn.Module, photo: np.ndarray, size: tuple[int, int], window: int = 8
) -> Tensor:
    """SwinIR's protocol: a picture with its mirror image, and the part of it that is asked for.

    photo (H, W, 3) in [0, 1] -> (3, *size).
    """
    inp = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] * 2 - 1
    coord, cell = [], []
    for axis in (0, 1):
        length = photo.shape[axis]
        longer = (length // window + 1) * window
        inp = torch.cat([inp, inp.flip(2 + axis)], 2 + axis).narrow(2 + axis, 0, longer)
        step = length / (size[axis] * longer)
        coord.append((-1 + (2 * torch.arange(size[axis]).double() + 1) * step).float())
        cell.append(2 * step)
    places = torch.cartesian_prod(*coord)[None]
    with torch.no_grad():
        values = model(inp, places, torch.tensor(cell).expand_as(places))
    return values.view(*size, 3).permute(2, 0, 1) / 2 + 0.5


@pytest.mark.parametrize("scale", [2, 2.7])
@pytest.mark.parametrize("size", [(13, 19), (16, 9), (24, 32)])
@pytest.mark.parametrize("name", ["lte", "lmliif"])
def test_swinir_sees_the_mirrored_picture(
    name: str, size: tuple[int, int], scale: float, tmp_path: Path
) -> None:
    """Rendered whole, at places, from a file and as measured: at sizes of all kinds."""
    spec = {"name": name, "args": ON_SWINIR[name]}
    model, photo = small_model(**spec), photograph(size)
    wanted = round(size[0] * scale), round(size[1] * scale)
    expected = mirrored_by_hand(model, photo, wanted)
    image = ContinuousImage.represent(photo, model, spec=spec)
    assert_near(image.render(*wanted, clamp=False), expected, 1e-5)
    image.save(tmp_path / "picture.liif")
    again = ContinuousImage.load(tmp_path / "picture.liif", "cpu")
    assert torch.equal(again.render(*wanted), image.render(*wanted))
    measured = enlarge(model, photo, wanted, device=torch.device("cpu"))
    assert_near(measured, expected.clamp(0, 1), 1e-5)
    plain = ContinuousImage.represent(photo, model, window=0).render(*wanted, clamp=False)
    assert (plain - expected).abs().max() > 1e-3


def test_a_mirrored_picture_has_its_colours_at_any_place() -> None:
    model, photo = small_model("lte", ON_SWINIR["lte"]), photograph((13, 18))
    image = ContinuousImage.represent(photo, model)
    y, x = torch.rand(2, 50) * 2 - 1
    share = torch.tensor([13 / 16, 18 / 24])
    inp = torch.from_numpy(photo).permute(2, 0, 1)[None] * 2 - 1
    inp = torch.cat([inp, inp.flip(2)], 2)[:, :, :16]
    inp = torch.cat([inp, inp.flip(3)], 3)[..., :24]
    coord = (torch.stack([y, x], -1)[None] + 1) * share - 1
    with torch.no_grad():
        values = model(inp, coord, torch.tensor([2 / 16, 2 / 24]).expand_as(coord))
    assert_near(image.image(y, x), (values[0] / 2 + 0.5).clamp(0, 1), 1e-5)
    # A box is the same part of the whole.
    whole, part = image.render(26, 36, clamp=False), (2, 4, 10, 14)
    assert_near(image.render(16, 20, part, clamp=False), whole[:, 4:20, 8:28], 1e-5)


def test_mirrored_pictures_render_as_the_authors() -> None:
    """The published protocol for whole pictures, from a photograph on."""
    name = "model/swinir-lte-padded-x2"
    case = cases("model")[name]
    model = filled(models.make(case["spec"]), case)
    inp = input_of({key: value for key, value in case.items() if key != "mirror"})
    photo = ((inp[0] + 1) / 2).permute(1, 2, 0).numpy()
    rendered = ContinuousImage.represent(photo, model).render(*case["grid"], clamp=False)
    values = arrays()[f"{name}/y"].view(*case["grid"], 3).permute(2, 0, 1)
    assert_near(rendered * 2 - 1, values)


@pytest.mark.parametrize("name", [*ON_SWINIR, "liif"])
def test_which_models_mirror(name: str) -> None:
    """CiaoSR's published figures are of pictures as they are."""
    args = ON_SWINIR.get(name) or {"encoder_spec": SWINIR, "imnet_spec": IMNET}
    assert small_model(name, args).window == (0 if name == "ciaosr" else 8)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", [*SPECS, "swinir-sronet"])
@pytest.mark.usefixtures("small_windows")
def test_a_box_is_a_crop_of_the_whole(name: str, kept: bool) -> None:
    """Also where colours depend on a mean over the whole picture; and single places are pixels."""
    args = SPECS[name.removeprefix("swinir-")]
    if name.startswith("swinir-"):
        args = {**args, "encoder_spec": {**SWINIR, "args": {**SWINIR["args"], "tail": True}}}
    model = small_model(name.removeprefix("swinir-"), args)
    image = ContinuousImage.represent(photograph(), model, keep_features=kept)
    whole = image.render(3 * SIZE[0], 3 * SIZE[1])
    box = image.render(3 * 12, 3 * 17, (5, 8, 17, 25))
    assert_near(box, whole[:, 15:51, 24:75], 1e-5)
    row, column = make_coord((3 * SIZE[0],))[17], make_coord((3 * SIZE[1],))[80]
    cell = 2 / (3 * SIZE[0]), 2 / (3 * SIZE[1])
    assert_near(image.image(row, column, cell)[0], whole[:, 17, 80], 1e-5)


def test_strips_have_a_statistic_each() -> None:
    model, photo = small_model("sronet", SPECS["sronet"]), photograph()
    image = ContinuousImage.represent(photo, model, statistic=20)
    inp = torch.from_numpy(photo).permute(2, 0, 1)[None] * 2 - 1
    coord = make_coord(WANTED, flatten=False)[None]
    cell = torch.tensor([2 / length for length in WANTED])
    with torch.no_grad():
        parts = [part.flatten(1, 2) for part in coord.split(20, 1)]
        values = torch.cat([model(inp, part, cell.expand_as(part)) for part in parts], 1)
    assert [part.shape[1] // WANTED[1] for part in parts] == [20, 20, 17]
    expected = values.view(*WANTED, 3).permute(2, 0, 1) / 2 + 0.5
    assert_near(image.render(*WANTED, clamp=False), expected, 1e-5)
    at_once = ContinuousImage.represent(photo, model).render(*WANTED, clamp=False)
    assert (at_once - expected).abs().max() > 1e-3


def test_strips_of_a_test_configuration() -> None:
    model, photo = small_model("sronet", SPECS["sronet"]), photograph()
    strips = ContinuousImage.represent(photo, model, statistic=20).render(*WANTED)
    batch = {
        "inp": torch.from_numpy(photo).permute(2, 0, 1)[None],
        "coord": make_coord(WANTED)[None],
        "cell": torch.tensor([2 / length for length in WANTED]).expand(1, strips[0].numel(), 2),
        "gt": strips.flatten(1).t()[None],
    }
    asked = model, [batch], torch.device("cpu"), PAPER
    assert evaluate(*asked, "benchmark-2", strips=20).psnr > 120
    assert evaluate(*asked, "benchmark-2").psnr < 100


@pytest.mark.parametrize("name", stored()["checkpoints"])
def test_shipped_configuration_trains_the_published_model(name: str) -> None:
    config = read_train_config(ROOT / f"configs/train-div2k/train_{name}.yaml")
    with torch.device("meta"):
        shipped = models.make(config.model).state_dict()
        published = models.make(stored()["checkpoints"][name]["model"]).state_dict()
    assert {key: value.shape for key, value in shipped.items()} == {
        key: value.shape for key, value in published.items()
    }


@pytest.mark.parametrize("scale", [(4.0, 9.0), (2.0, 3.0)])
def test_a_clipped_cell_is_that_of_the_largest_scale(scale: tuple[float, float]) -> None:
    """Per axis: beyond x4 the cell stays 2/4 in units of a code, below it is what it is."""
    model = small_model("lte", SPECS["lte"])
    photo = photograph()[:6, :7]
    size = round(6 * scale[0]), round(7 * scale[1])
    image = ContinuousImage.represent(photo, model, cell_max_scale=4)
    cell = torch.tensor([2 / min(size[0], 24), 2 / min(size[1], 28)])
    coord = make_coord(size)[None]
    inp = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        values = model(inp, coord, cell.expand_as(coord))
    expected = values.view(*size, 3).permute(2, 0, 1) / 2 + 0.5
    assert_near(image.render(*size, clamp=False), expected, 1e-5)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("demo.py", ["--input", "a.png", "--scale", "8", "--cell-max-scale", "0.5"]),
        ("test.py", ["--suite", ".", "--baseline", "bicubic", "--cell-max-scale", "nan"]),
    ],
)
def test_a_largest_scale_below_one_is_refused(
    commands: Commands, tmp_path: Path, script: str, options: list[str]
) -> None:
    ended = commands.run(script, *options, folder=tmp_path)
    assert ended.code == 2
    assert ended.line.endswith("given; allowed: a number of at least 1")
