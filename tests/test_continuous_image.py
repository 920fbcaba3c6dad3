"""Tiled rendering against rendering in one piece; ContinuousImage; the division into windows."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torch import nn

import models
import utils
from datasets.images import Photo, read_photo, write_photo
from engine.render import ContinuousImage
from engine.render.pixels import to_network
from engine.render.resampling import resample_rows
from engine.render.tiling import (
    BAND,
    WINDOW,
    Grid,
    Layout,
    chunks,
    make_plan,
    positions,
    read_lengths,
)
from tests.tiled import in_one_piece, picture, tiled
from utils import ConfigError, DataError

CPU = torch.device("cpu")
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [12, 8]}}
SWITCHES = ("local_ensemble", "feat_unfold", "cell_decode")


def edsr(**args: Any) -> dict[str, Any]:
    return {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, **args}}


def liif(encoder: dict[str, Any], **args: Any) -> dict[str, Any]:
    return {"name": "liif", "args": {"encoder_spec": encoder, "imnet_spec": IMNET, **args}}


SPECS: dict[str, dict[str, Any]] = {
    "liif-" + "".join(str(int(on)) for on in switches): liif(
        edsr(no_upsampling=True), **dict(zip(SWITCHES, switches, strict=True))
    )
    for switches in itertools.product([True, False], repeat=3)
}
SPECS["liif-edsr"] = liif(
    {"name": "edsr", "args": {"n_resblocks": 2, "n_feats": 4, "no_upsampling": True}}
)
SPECS["liif-rcan"] = liif(
    {
        "name": "rcan",
        "args": {
            "n_resgroups": 1,
            "n_resblocks": 1,
            "n_feats": 8,
            "reduction": 4,
            "no_upsampling": True,
        },
    }
)
SPECS["metasr"] = {"name": "metasr", "args": {"encoder_spec": edsr(no_upsampling=True)}}
for factor in (2, 3, 4, 8):
    SPECS[f"upsampling-{factor}"] = {"name": "liif", "args": {"encoder_spec": edsr(scale=factor)}}


def make_model(spec: dict[str, Any]) -> nn.Module:
    """A model whose weights vary enough for its picture to."""
    torch.manual_seed(0)
    model = models.make(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


MODELS = {name: make_model(spec) for name, spec in SPECS.items()}


def rendered(
    model: nn.Module, pixels: np.ndarray, grid: Grid, tile: int, precision: str = "fp32"
) -> np.ndarray:
    """In small tiles, each encoded on its own: float32 (height, width, 3)."""
    image = ContinuousImage.represent(pixels, model, precision=precision, keep_features=False)
    return tiled(image, grid, tile)


sizes = st.tuples(st.integers(1, 26), st.integers(1, 26))


@given(
    name=st.sampled_from(sorted(MODELS)),
    size=sizes,
    scale=st.tuples(st.floats(0.3, 6), st.floats(0.3, 6)),
    tile=st.integers(1, 12),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_tiles_agree_with_one_piece(
    name: str, size: tuple[int, int], scale: tuple[float, float], tile: int, seed: int
) -> None:
    pixels = picture(*size, seed)
    height, width = (max(1, round(n * s)) for n, s in zip(size, scale, strict=True))
    result = rendered(MODELS[name], pixels, Grid(size, height, width), tile)
    expected = in_one_piece(MODELS[name], pixels, height, width)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 2.5])
@pytest.mark.parametrize("name", ["liif-111", "liif-011", "metasr", "upsampling-2"])
def test_tiles_agree_where_queries_meet_code_borders(name: str, scale: float) -> None:
    """At whole scales queries lie on code centres and borders, where 1e-6 decides."""
    pixels = picture(33, 20)
    height, width = round(33 * scale), round(20 * scale)
    result = rendered(MODELS[name], pixels, Grid((33, 20), height, width), tile=5)
    expected = in_one_piece(MODELS[name], pixels, height, width)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_tiles_agree_for_rdn() -> None:
    spec = liif({"name": "rdn", "args": {"G0": 4, "RDNconfig": "A", "no_upsampling": True}})
    model = make_model(spec)
    assert model.halo is not None
    size = (2 * model.halo + 40, 3)  # long enough for windows that see neither end
    pixels = picture(*size)
    grid = Grid(size, round(1.3 * size[0]), 5)
    layout = Layout(size, 1, model.reach, model.halo)
    windows = [layout.pixels(0, layout.window_of(grid, 0, (row, row + 1))) for row in (0, 195)]
    assert all(high - low < size[0] for low, high in windows)
    result = rendered(model, pixels, grid, tile=12)
    np.testing.assert_allclose(result, in_one_piece(model, pixels, grid.height, 5), atol=1e-5)


def test_a_smaller_halo_would_be_seen() -> None:
    """The exactness above is the halo's doing, not that of a picture that forgives everything."""
    model = make_model(SPECS["liif-111"])
    pixels = picture(26, 26)
    expected = in_one_piece(model, pixels, 52, 52)
    halo, reach = model.halo, model.reach
    for changes in ({"halo": halo - 3}, {"reach": reach - 3}):
        vars(model).update({"halo": halo, "reach": reach, **changes})
        result = rendered(model, pixels, Grid((26, 26), 52, 52), tile=4)
        assert np.abs(result - expected).max() > 1e-4


@pytest.mark.usefixtures("bf16")
def test_low_precision_tiles_agree_with_one_piece() -> None:
    model, pixels = MODELS["liif-111"], picture(20, 24)
    result = rendered(model, pixels, Grid((20, 24), 50, 60), tile=6, precision="bf16")
    expected = in_one_piece(model, pixels, 50, 60)
    assert np.abs(result - expected).max() < 0.03
    assert not np.array_equal(result, expected)


def test_whole_numbers_are_rounded_over_their_range() -> None:
    model, pixels = MODELS["liif-111"], picture(8, 9)
    grid = Grid((8, 9), 20, 21)
    floats = rendered(model, pixels, grid, tile=50)
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        image = ContinuousImage.represent(pixels, model, keep_features=False)
        rounded = np.concatenate([*image.bands(grid, dtype)])
        assert rounded.dtype == dtype
        assert np.abs(rounded - floats.astype(np.float64) * top).max() <= 0.5 + 1e-4 * top / 255


def test_photographs_of_16_bits_and_of_floats_mean_the_same() -> None:
    eight = picture(6, 5)
    sixteen = eight.astype(np.uint16) * 257
    floats = eight.astype(np.float64) / 255
    expected = to_network(eight)
    torch.testing.assert_close(to_network(sixteen), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(to_network(floats), expected, atol=1e-6, rtol=0)
    assert expected.shape == (1, 3, 6, 5)
    torch.testing.assert_close(expected[0, :, 2, 3], torch.from_numpy(eight[2, 3]) / 127.5 - 1)


# The division into windows


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    scale=st.floats(0.05, 30),
    tiles_fit=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_plans_cover_every_pixel_within_the_budget(
    height: int, width: int, scale: float, tiles_fit: bool
) -> None:
    model = MODELS["liif-111"]
    layout = Layout((height, width), 1, model.reach, 0 if tiles_fit else 40)
    grid = Grid(layout.size, max(1, round(height * scale)), max(1, round(width * scale)))
    plan = make_plan(layout, grid, 3)
    for length, spans in ((grid.height, plan.bands), (grid.width, plan.tiles)):
        starts, ends = zip(*spans, strict=True)
        assert (0, *ends) == (*starts, length)
        assert min(end - start for start, end in spans) > 0
    most = []
    for axis, spans in ((0, plan.bands), (1, plan.tiles)):
        reads = [layout.pixels(axis, layout.window_of(grid, axis, span)) for span in spans]
        most.append(max(high - low for low, high in reads))
    assert most[0] * most[1] <= WINDOW
    rows = max(bottom - top for top, bottom in plan.bands)
    assert rows == 1 or rows * grid.width * 3 <= BAND


@pytest.mark.parametrize(("height", "width"), [(50, WINDOW + 1), (2, 140_000), (2, 1_000_000)])
@pytest.mark.parametrize("halo", [0, 35])
def test_plans_of_pictures_wider_than_a_window(height: int, width: int, halo: int) -> None:
    layout, grid = Layout((height, width), 1, 2, halo), Grid((height, width), height, width)
    plan = make_plan(layout, grid, 3)
    assert [plan.bands[0][0], plan.bands[-1][1]] == [0, height]
    assert [plan.tiles[0][0], plan.tiles[-1][1]] == [0, width]
    read = [max(read_lengths(layout, grid, axis, len(spans))) for axis, spans in enumerate(plan)]
    assert WINDOW / 2 <= read[0] * read[1] <= WINDOW
    assert 1 < len(plan.tiles) <= 60


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 1500))
@settings(deadline=None)
def test_chunks_cover_a_block_within_their_size(height: int, width: int, queries: int) -> None:
    seen = np.zeros((height + 7, width + 3), int)
    for rows, columns in chunks((7, height + 7), (3, width + 3), queries):
        assert (rows[1] - rows[0]) * (columns[1] - columns[0]) <= queries
        seen[slice(*rows), slice(*columns)] += 1
    assert (seen[7:, 3:] == 1).all()
    assert seen.sum() == height * width


def test_positions_of_a_part_are_those_of_the_whole() -> None:
    whole = utils.make_coord((320,))[:, 0]
    assert torch.equal(positions(320, 0, 80, 80), whole)
    assert torch.equal(positions(60, 10, 25, 80), whole[40:100])
    by_hand = -1 + (10.3 + (torch.arange(7, dtype=torch.float64) + 0.5) * 5 / 7) / 40
    torch.testing.assert_close(positions(7, 10.3, 15.3, 80).double(), by_hand, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 11, 5),
        (-1, 0, 5, 5),
        (5, 0, 5, 5),
        (6, 0, 5, 5),
        (0, 0, 5, float("nan")),
        (0, 0, float("inf"), 5),
    ],
)
def test_boxes_outside_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match=r"box: .* inside the picture, which is 0,0,10,8"):
        Grid((10, 8), 4, 4, box)


def test_no_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="0x4 pixels asked for"):
        Grid((10, 8), 0, 4)


# ContinuousImage


@given(
    name=st.sampled_from(["liif-111", "liif-011", "liif-rcan", "metasr", "upsampling-2"]),
    size=sizes,
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_box_is_the_same_part_of_the_whole(
    name: str, size: tuple[int, int], data: st.DataObject
) -> None:
    image = ContinuousImage.represent(picture(*size), MODELS[name])
    height, width = (data.draw(st.integers(1, 4 * n)) for n in size)
    rows, columns = (
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
        for n in (height, width)
    )
    box = (
        rows[0] * size[0] / height,
        columns[0] * size[1] / width,
        rows[1] * size[0] / height,
        columns[1] * size[1] / width,
    )
    part = image.render(rows[1] - rows[0], columns[1] - columns[0], box)
    whole = image.render(height, width)
    expected = whole[:, slice(*rows), slice(*columns)]
    torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)


def test_rendering_is_the_models_own_picture() -> None:
    pixels = picture(14, 11)
    image = ContinuousImage.represent(pixels, MODELS["liif-111"])
    result = image.render(37, 23)
    assert result.shape == (3, 37, 23)
    assert result.dtype == torch.float32
    expected = in_one_piece(MODELS["liif-111"], pixels, 37, 23)
    np.testing.assert_allclose(result.permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["liif-111", "metasr", "upsampling-3"])
def test_places_of_a_grid_have_its_colours(name: str) -> None:
    image = ContinuousImage.represent(picture(12, 15), MODELS[name])
    coord = utils.make_coord((30, 20), flatten=False)
    colours = image.image(coord[..., 0], coord[..., 1], cell=(2 / 30, 2 / 20))
    torch.testing.assert_close(colours.permute(2, 0, 1), image.render(30, 20), atol=1e-5, rtol=0)


def test_places_broadcast_and_may_come_in_any_order() -> None:
    image = ContinuousImage.represent(picture(12, 15), MODELS["liif-111"])
    y, x = np.array([0.9, -0.9, 0.1])[:, None], np.array([-1.0, 1.0])
    colours = image.image(y, x)
    assert colours.shape == (3, 2, 3)
    for row, column in itertools.product(range(3), range(2)):
        alone = image.image(float(y[row, 0]), float(x[column]))
        torch.testing.assert_close(colours[row, column], alone, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="outside"):
        image.image(1.01, 0)


def test_places_come_out_right_when_they_need_several_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.render.tiling.WINDOW", 60)
    image = ContinuousImage.represent(picture(40, 15), MODELS["liif-111"])
    coord = utils.make_coord((80, 20), flatten=False)[torch.randperm(80)]
    colours = image.image(coord[..., 0], coord[..., 1], cell=(2 / 80, 2 / 20))
    monkeypatch.undo()
    torch.testing.assert_close(
        colours, image.image(coord[..., 0], coord[..., 1], cell=(2 / 80, 2 / 20)), atol=1e-5, rtol=0
    )


def test_encoding_in_windows_is_encoding_at_once() -> None:
    model, pixels = MODELS["liif-111"], picture(600, 9)
    image = ContinuousImage.represent(pixels, model)
    with torch.inference_mode():
        expected = model.encoder(to_network(pixels))
    torch.testing.assert_close(image._source.kept.maps, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["liif-111", "liif-rcan", "metasr", "upsampling-2"])
def test_what_a_box_shows_is_encoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes inside come out of what is kept, others are encoded when they are asked for."""
    pixels, calls = picture(60, 50), []
    image = ContinuousImage.represent(pixels, MODELS[name], keep_features=False)
    whole = ContinuousImage.represent(pixels, MODELS[name])
    image.keep((10.5, 20, 30, 41.5))
    monkeypatch.setattr(MODELS[name].encoder, "forward", counting(MODELS[name].encoder, calls))
    for box in ((10.5, 20, 30, 41.5), (11, 22, 11.5, 22.5)):
        expected = whole.render(70, 66, box)
        torch.testing.assert_close(image.render(70, 66, box), expected, atol=1e-5, rtol=0)
    assert calls == []
    torch.testing.assert_close(image.render(70, 66), whole.render(70, 66), atol=1e-5, rtol=0)
    assert bool(calls) == (name != "liif-rcan")


def counting(encoder: nn.Module, calls: list[Any]) -> Any:
    """The encoder's forward, which notes that it was called."""
    forward = encoder.forward
    return lambda inp: calls.append(inp.shape) or forward(inp)


@pytest.mark.parametrize(
    "kind", ["uint8", "uint16", "float", "tensor", "grey", "alpha", "PIL", "turned", "palette"]
)
def test_photographs_in_memory(kind: str) -> None:
    pixels = picture(9, 7)
    photos: dict[str, Any] = {
        "uint8": pixels,
        "uint16": pixels.astype(np.uint16) * 257,
        "float": (pixels / 255).astype(np.float32),
        "tensor": torch.from_numpy(pixels / 255).permute(2, 0, 1),
        "grey": pixels[..., 0],
        "alpha": np.concatenate([pixels, pixels[..., :1]], axis=2),
        "PIL": Image.fromarray(pixels),
        "turned": Image.fromarray(np.rot90(pixels)),
        "palette": Image.fromarray(pixels).quantize(63),  # as many as there are pixels
    }
    photos["turned"].getexif()[274] = 6  # upright after a quarter to the right
    image = ContinuousImage.represent(photos[kind], MODELS["liif-111"])
    seen = pixels[..., [0, 0, 0]] if kind == "grey" else pixels
    expected = in_one_piece(MODELS["liif-111"], seen, 18, 14)
    np.testing.assert_allclose(image.render(18, 14).permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (None, "a NoneType given; allowed: a file's name, a PIL.Image"),
        (np.full((4, 4, 3), 200.0), "outside"),
        (np.full((4, 4, 3), np.nan), "outside"),
        (torch.zeros(1, 3, 4, 4), r"\(1, 3, 4, 4\)"),
    ],
)
def test_what_is_no_photograph_is_refused(photo: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ContinuousImage.represent(photo, MODELS["liif-111"])


@pytest.mark.parametrize("name", ["liif-111", "liif-rcan", "metasr", "upsampling-2"])
@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_representations_render_the_same_bytes(
    name: str, precision: str, tmp_path: Any
) -> None:
    image = ContinuousImage.represent(
        picture(13, 10), MODELS[name], precision=precision, spec=SPECS[name]
    )
    image.save(tmp_path / "image.liif")
    again = ContinuousImage.load(tmp_path / "image.liif", "cpu")
    assert again.size == (13, 10)
    assert torch.equal(again.render(31, 17), image.render(31, 17))
    box = (1.5, 2.25, 9.0, 8.5)
    assert torch.equal(again.render(16, 17, box), image.render(16, 17, box))


def test_saving_needs_the_specification(tmp_path: Any) -> None:
    image = ContinuousImage.represent(picture(5, 5), MODELS["liif-111"])
    with pytest.raises(ConfigError, match="spec: needed"):
        image.save(tmp_path / "image.liif")


def test_what_is_no_representation_is_refused(tmp_path: Any) -> None:
    spec = SPECS["liif-111"]
    whole = tmp_path / "image.liif"
    ContinuousImage.represent(picture(5, 5), MODELS["liif-111"], spec=spec).save(whole)
    content = torch.load(whole, weights_only=True)
    broken: list[Any] = [
        {"model": 3},
        {**content, "format": "something else"},
        {**content, "features": content["features"][..., 1:]},
        {**content, "sd": {}},
        {**content, "model": {"name": "lif", "args": {}}},
        {**content, "size": [5]},
        {**content, "precision": "fp8"},
    ]
    for number, value in enumerate(broken):
        torch.save(value, tmp_path / f"{number}")
        with pytest.raises(DataError, match=str(tmp_path / f"{number}")):
            ContinuousImage.load(tmp_path / f"{number}")
    (tmp_path / "short").write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(DataError, match="short"):
        ContinuousImage.load(tmp_path / "short")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2.5, 4), "2.5x4 pixels asked for; allowed: whole numbers"),
        ((4, "4"), "4x4 pixels asked for; allowed: whole numbers"),
        ((4, 4, (0, 1, 2)), "box: .*; allowed: four numbers"),
        ((4, 4, (0, 0, 9, 99)), "box: 0,0,9,99 given"),
    ],
)
def test_what_cannot_be_rendered_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ContinuousImage.represent(picture(9, 7), MODELS["liif-111"]).render(*arguments)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_results_go_to_files_with_what_the_photograph_has(
    channels: int, dtype: Any, tmp_path: Path
) -> None:
    pixels = (
        np.random.default_rng(0).integers(1, np.iinfo(dtype).max, (9, 7, channels)).astype(dtype)
    )
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_photo(tmp_path / "in.png", Photo(pixels, icc if channels > 2 else None, (300.0, 300.0)))
    image = ContinuousImage.represent(tmp_path / "in.png", MODELS["liif-111"])
    assert image.render_to(tmp_path / "out.png", scale=(2, 3)) == (18, 21)
    written, top = read_photo(tmp_path / "out.png"), np.iinfo(dtype).max
    assert (written.pixels.shape, written.pixels.dtype) == ((18, 21, channels), dtype)
    assert written.icc == image.photo.icc
    assert written.dpi == pytest.approx((300, 300), rel=0.01)
    colours = image.render(18, 21).permute(1, 2, 0).numpy()
    colours = colours if channels > 2 else colours.mean(axis=2, keepdims=True)
    ours = written.pixels[..., : 3 if channels > 2 else 1]
    assert np.abs(ours - colours * top).max() <= 1.01
    assert image.render_to(tmp_path / "less.png", 4, 3) == (4, 3)
    assert np.array_equal(
        read_photo(tmp_path / "less.png").pixels, resample_rows(pixels, Grid((9, 7), 4, 3), (0, 4))
    )


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    spec = SPECS["liif-111"]
    image = ContinuousImage.represent(picture(9, 7), MODELS["liif-111"], spec=spec)
    for wrong in (
        {},
        {"height": 4},
        {"height": 4, "width": 4, "scale": 2},
        {"width": 4, "scale": 2},
    ):
        with pytest.raises(ConfigError, match="allowed: height and width, or scale"):
            image.render_to(tmp_path / "out.png", **wrong)
    with pytest.raises(ConfigError, match="scale: '0,0' given"):
        image.render_to(tmp_path / "out.png", scale=0)
    with pytest.raises(DataError, match=r"out\.gif"):
        image.render_to(tmp_path / "out.gif", scale=2)
    image.save(tmp_path / "image.liif")
    loaded = ContinuousImage.load(tmp_path / "image.liif", "cpu")
    with pytest.raises(ConfigError, match="4x4 pixels asked for; allowed without the photograph"):
        loaded.render_to(tmp_path / "out.png", 4, 4)
    loaded.render_to(tmp_path / "again.png", scale=2)
    image.render_to(tmp_path / "out.png", scale=2)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()


def test_what_notebooks_show() -> None:
    image = ContinuousImage.represent(picture(64, 32), MODELS["liif-111"], spec=SPECS["liif-111"])
    assert repr(image) == "<ContinuousImage of 64x32 pixels by liif, fp32 on cpu>"
    content = image._repr_png_()
    assert content is not None
    with Image.open(io.BytesIO(content)) as shown:
        expected = image.render(512, 256).permute(1, 2, 0).mul(255).round().byte()
        assert np.array_equal(np.asarray(shown), expected)


@pytest.mark.cuda
def test_rendering_on_a_gpu_agrees_with_the_cpu() -> None:
    model = make_model(SPECS["liif-111"])
    pixels = picture(30, 20)
    expected = ContinuousImage.represent(pixels, model, device="cpu").render(75, 61)
    result = ContinuousImage.represent(pixels, model, device="cuda").render(75, 61)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)
