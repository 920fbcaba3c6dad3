"""models.protocol: what published models need beyond LIIF, by the smallest models that need it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from engine.config import DataNorm, Norm
from engine.evaluate.evaluate import evaluate, predict
from engine.render import ContinuousImage, render_once, tiling
from engine.render.tiling import Grid
from models.lookup import nearest_pixels
from models.protocol import Features, ImplicitModel, Target, implicit
from tests.tiled import in_one_piece, picture, tiled
from utils import make_coord

CPU = torch.device("cpu")
SMALL = {"n_resblocks": 1, "n_feats": 6, "no_upsampling": True}
ENCODER = {"name": "edsr-baseline", "args": SMALL}
RCAN = {"name": "rcan", "args": {**SMALL, "n_resgroups": 1, "reduction": 2}}
NORM = DataNorm(inp=Norm(sub=[0.5], div=[0.5]), gt=Norm(sub=[0.5], div=[0.5]))
Size = tuple[int, int] | None


def look_up(feat: Tensor, coord: Tensor, size: Size, origin: tuple[int, int]) -> Tensor:
    """The nearest code of each query: (B, Q, C)."""
    return nearest_pixels(feat, coord, size or (feat.shape[-2], feat.shape[-1]), origin)


def bilinear(inp: Tensor, coord: Tensor, size: Size, origin: tuple[int, int]) -> Tensor:
    """The input between its pixels' centres, clamped at the picture's border: (B, Q, 3)."""
    whole = size or (inp.shape[-2], inp.shape[-1])
    total = torch.zeros(coord.shape[0], coord.shape[1], inp.shape[1])
    index, weight = [], []
    for axis, length in enumerate(whole):
        place = (((coord[..., axis] + 1) * length - 1) / 2).clamp(0, length - 1)
        low = place.floor().clamp(max=max(length - 2, 0))
        high = (low + 1).clamp(max=length - 1)
        index.append([(one - origin[axis]).long() for one in (low, high)])
        weight.append([1 - (place - low), place - low])
    for y in (0, 1):
        for x in (0, 1):
            place = index[0][y] * inp.shape[-1] + index[1][x]
            pixels = inp.flatten(2).gather(2, place[:, None].expand(-1, inp.shape[1], -1))
            total = total + pixels.transpose(1, 2) * (weight[0][y] * weight[1][x]).unsqueeze(-1)
    return total


class Toy(ImplicitModel):
    """An encoder and two 3x3 convolutions of its features, looked up at the nearest code."""

    reach = 1

    def __init__(self, encoder_spec: dict[str, Any] = ENCODER) -> None:
        super().__init__(encoder_spec)
        self.first = nn.Conv2d(self.channels, 3, 3, padding=1)
        self.other = nn.Conv2d(self.channels, 3, 3, padding=1)

    @property
    def query_chunk(self) -> int:
        return 37  # several chunks, also of small tiles


@models.register("toy-two-maps")
class TwoMaps(Toy):
    """As LTE: amplitude and frequency are two maps, cut together."""

    def project(self, maps: Features, target: Target | None = None) -> Features:
        assert isinstance(maps, Tensor)
        return self.first(maps), self.other(maps)

    def query_rgb(self, feat, coord, cell=None, *, size=None, origin=(0, 0)):
        amplitude, frequency = (look_up(one, coord, size, origin) for one in feat)
        return amplitude * torch.cos(frequency * coord.sum(-1, keepdim=True))


@models.register("toy-residual")
class Residual(Toy):
    """As LTE, SRNO and CiaoSR: the bilinear input is added to what the features give."""

    def encode(self, inp: Tensor) -> Features:
        features = super().encode(inp)
        assert isinstance(features, Tensor)
        return features, inp

    def project(self, maps: Features, target: Target | None = None) -> Features:
        return self.first(maps[0]), maps[1]

    def query_rgb(self, feat, coord, cell=None, *, size=None, origin=(0, 0)):
        found = look_up(feat[0], coord, size, origin)
        return 0.1 * found + bilinear(feat[1], coord, size, origin)


@models.register("toy-statistic")
class Statistic(Toy):
    """As SRNO: two layers, each of which needs a mean over all queries of the layer before."""

    passes = 2

    def project(self, maps: Features, target: Target | None = None) -> Features:
        assert isinstance(maps, Tensor)
        return self.first(maps), self.other(maps), *(target.means if target else ())

    def layer(self, feat, coord, means, size, origin) -> tuple[Tensor, Tensor]:
        """What comes out after the known means, and what the next one is a mean of."""
        x = look_up(feat[0], coord, size, origin)  # (B, Q, 3)
        key = look_up(feat[1], coord, size, origin)
        for mean in means:
            x = x + torch.tanh(x @ mean)
            key = key * x
        return x, key.unsqueeze(-1) * x.unsqueeze(-2)  # (B, Q, 3), (B, Q, 3, 3)

    def accumulate(self, feat, coord, cell=None, *, size=None, origin=(0, 0)):
        return self.layer(feat, coord, feat[2:], size, origin)[1].sum(1)

    def query_rgb(self, feat, coord, cell=None, *, size=None, origin=(0, 0)):
        means = feat[2:]
        while len(means) < self.passes:  # of the queries at hand
            means = (*means, self.layer(feat, coord, means, size, origin)[1].mean(1))
        return self.layer(feat, coord, means, size, origin)[0]


@models.register("toy-per-scale")
class PerScale(Toy):
    """As LM-LIIF: what depends on the cell is worked out per code, once for each scale."""

    worked_out = 0

    def project(self, maps: Features, target: Target | None = None) -> Features:
        if target is None:
            return maps
        assert isinstance(maps, Tensor)
        self.worked_out += 1
        scales = target.cell.sum(-1).view(-1, 1, 1, 1) * self.other(maps)
        return (self.first(maps) * (1 + 9 * scales),)

    def query_rgb(self, feat, coord, cell=None, *, size=None, origin=(0, 0)):
        if isinstance(feat, Tensor):
            feat = self.project(feat, Target(cell[:, 0], feat.shape[-2:]))
        return look_up(feat[0], coord, size, origin)


@models.register("toy-published")
class Published(nn.Module):
    """A user's own, with the published methods alone, and features of a size of its own."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, width, 4, stride=3)
        self.head = nn.Linear(width + 4, 3)

    def gen_feat(self, inp: Tensor) -> Tensor:
        return self.body(inp).amax((2, 3))

    def query_rgb(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        wide = feat[:, None].expand(-1, coord.shape[1], -1)
        return self.head(torch.cat([wide, coord, cell], -1))

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return self.query_rgb(self.gen_feat(inp), coord, cell)


NAMES = ["toy-two-maps", "toy-residual", "toy-statistic", "toy-per-scale"]
CASES = [(name, encoder) for name in NAMES for encoder in (ENCODER, RCAN)]


def spec_of(name: str, encoder: dict[str, Any] = ENCODER) -> dict[str, Any]:
    return {"name": name, "args": {} if name == "toy-published" else {"encoder_spec": encoder}}


def make(name: str, encoder: dict[str, Any] = ENCODER) -> nn.Module:
    torch.manual_seed(0)
    return models.make(spec_of(name, encoder)).eval()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("name", "encoder"), CASES, ids=lambda value: str(value)[-30:])
def test_tiles_agree_with_one_piece(name: str, encoder: dict[str, Any], keep: bool) -> None:
    model, pixels = make(name, encoder), picture(26, 21)
    expected = in_one_piece(model, pixels, 49, 64)
    assert expected.std() > 0.02
    image = ContinuousImage.represent(pixels, model, keep_features=keep)
    result = tiled(image, Grid((26, 21), 49, 64), tile=6)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(image.render(49, 64).permute(1, 2, 0), expected, atol=1e-5)
    coord = make_coord((49, 64), flatten=False)
    places = image.image(coord[..., 0], coord[..., 1], cell=(2 / 49, 2 / 64))
    np.testing.assert_allclose(places, expected, atol=1e-5)


@pytest.mark.parametrize("name", [*NAMES, "toy-published"])
def test_saved_with_all_its_maps(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    image = ContinuousImage.represent(picture(12, 17), make(name), spec=spec, keep_features=False)
    expected = image.render(30, 23)
    image.save(tmp_path / "image.liif")
    again = ContinuousImage.load(tmp_path / "image.liif", "cpu")
    torch.testing.assert_close(again.render(30, 23), expected, atol=1e-5, rtol=0)
    assert torch.equal(again.render(30, 23), image.render(30, 23))


def test_the_answer_depends_on_what_is_asked_with_it() -> None:
    """Else the statistic would prove nothing: parts of the grid differ from the whole."""
    model, pixels = make("toy-statistic"), picture(12, 12)
    image = ContinuousImage.represent(pixels, model, statistic="asked")
    half = image.render(24, 48, box=(0, 0, 6, 12))
    assert (half - image.render(48, 48)[:, :24]).abs().max() > 1e-3


def test_a_statistic_of_the_picture_is_worked_out_once_per_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, pixels = make("toy-statistic"), picture(12, 12)
    asked: list[int] = []
    accumulate = model.accumulate

    def counted(feat, coord, *args, **kwargs):
        asked.append(coord.shape[1])
        return accumulate(feat, coord, *args, **kwargs)

    monkeypatch.setattr(model, "accumulate", counted)
    image = ContinuousImage.represent(pixels, model)
    corner = image.render(5, 5, box=(0, 0, 1.25, 1.25))
    assert sum(asked) == 2 * 48 * 48
    whole = image.render(48, 48)
    assert sum(asked) == 2 * 48 * 48
    torch.testing.assert_close(whole[:, :5, :5], corner, atol=1e-6, rtol=0)
    image.render(36, 48)
    assert sum(asked) == 2 * 48 * (48 + 36)


def test_a_statistic_of_too_many_pixels_is_of_an_even_selection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, pixels = make("toy-statistic"), picture(12, 12)
    expected = ContinuousImage.represent(pixels, model).render(96, 96)
    monkeypatch.setattr(tiling, "EVEN_PIXELS", 60 * 60)
    even = Grid((12, 12), 96, 96).even()
    assert (even.height, even.width) == (32, 96)
    torch.testing.assert_close(even.rows, make_coord((96,))[1::3, 0])
    torch.testing.assert_close(even.columns, make_coord((96,))[:, 0])
    near = ContinuousImage.represent(pixels, model).render(96, 96)
    assert 0 < (near - expected).abs().max() < 1e-2


@pytest.mark.parametrize(("codes", "pixels"), [(10, 150), (12, 96), (7, 115), (15, 154)])
def test_an_even_selection_has_every_place_around_a_code_as_often(
    codes: int, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else places right at a code, where its neighbours change, could count too much."""
    monkeypatch.setattr(tiling, "EVEN_PIXELS", 1000)
    even = Grid((codes, codes), pixels, pixels).even()
    assert even.height * even.width <= 1000
    period = pixels // math.gcd(pixels, codes)
    for asked in (even.rows, even.columns):
        row = ((asked.double() + 1) * pixels / 2 - 0.5).round().long()
        torch.testing.assert_close(asked, make_coord((pixels,))[row, 0])
        counts = torch.bincount(row % period, minlength=period)
        assert counts.max() - counts.min() <= 1


def test_strips_are_whole_grids_rows() -> None:
    grid = Grid((21, 30), 57, 64, (3, 4.5, 15.25, 29))
    strips = [*grid.strips(25)]
    assert [strip.height for strip in strips] == [25, 25, 7]
    torch.testing.assert_close(torch.cat([strip.rows for strip in strips]), grid.rows)
    assert all(torch.equal(strip.columns, grid.columns) for strip in strips)
    assert (strips[0].area[0], strips[-1].area[2]) == (3, 15.25)
    whole = Grid((21, 30), 57, 64)
    assert torch.equal(torch.cat([strip.rows for strip in whole.strips(10)]), whole.rows)


def test_what_a_scale_needs_is_worked_out_once_per_window() -> None:
    model = make("toy-per-scale")
    image = ContinuousImage.represent(picture(12, 17), model)
    image.render(60, 80)
    assert model.worked_out == 1
    assert not torch.equal(image.render(30, 40), image.render(60, 80)[:, ::2, ::2])


@pytest.mark.parametrize("name", NAMES)
def test_sampled_batches_in_chunks(name: str) -> None:
    """Each picture with a cell of its own; the statistic is over all of a picture's queries."""
    model = make(name)
    inp, coord = torch.rand(2, 3, 9, 11), torch.rand(2, 101, 2) * 2 - 1
    cell = torch.tensor([[0.1, 0.2], [0.05, 0.03]])[:, None].expand_as(coord)
    with torch.no_grad():
        expected = model(inp, coord, cell)
        assert (predict(model, inp, coord, cell, eval_bsize=7) - expected).abs().max() < 1e-5


def test_a_model_with_the_published_methods_alone() -> None:
    model, pixels = make("toy-published"), picture(23, 31)
    assert implicit(model).halo is None
    expected = in_one_piece(model, pixels, 40, 50)
    for keep in (True, False):
        image = ContinuousImage.represent(pixels, model, keep_features=keep, eval_bsize=77)
        np.testing.assert_allclose(image.render(40, 50).permute(1, 2, 0), expected, atol=1e-5)
        np.testing.assert_allclose(tiled(image, Grid((23, 31), 40, 50), 6), expected, atol=1e-5)
    whole = render_once(pixels, model, (40, 50))
    np.testing.assert_allclose(whole.permute(1, 2, 0), expected, atol=1e-5)
    batch = {
        "inp": torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255,
        "coord": make_coord((40, 50))[None],
        "cell": torch.tensor([2 / 40, 2 / 50]).expand(1, 2000, 2),
        "gt": torch.from_numpy(expected).view(1, 2000, 3),
    }
    assert evaluate(model, [batch], CPU, NORM, "benchmark-2").psnr > 90
    assert evaluate(model, [batch], CPU, NORM).psnr > 90
