"""Suites by CiaoSR's protocol, against a plain computation of its steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.images import write_rgb
from datasets.resize import resize_matlab, resize_pil
from engine.distributed import Processes
from engine.evaluate import ciaosr_protocol
from engine.evaluate.suite import baseline_method, model_method, record_key, run_suites
from engine.evaluate.suite_data import Pictures, find_suite
from engine.evaluate.suite_figures import SuiteFigures
from engine.evaluate.suite_results import ResultStore
from engine.evaluate.test_config import protocol, run_test
from tests import oracle
from tests.small import (
    SPEC,
    photograph,
    psnr_by_hand,
    run,
    save_model,
    small_model,
    write_benchmark,
)
from tests.test_evaluate import folder_config
from utils import ConfigError, DataError, make_coord

CPU = torch.device("cpu")
HEIGHT, WIDTH = 79, 90  # 72x84 is what the protocol takes of it


def plain_colours(low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By the plain model, all pixels at once, not clamped: (height, width, 3)."""
    model = oracle.plain(SPEC).eval()
    model.load_state_dict(small_model().state_dict())
    inp = torch.from_numpy(low.copy()).permute(2, 0, 1)[None].float() / 255
    coord = make_coord(size)[None]
    cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(coord)
    with torch.no_grad():
        values = model((inp - 0.5) / 0.5, coord, cell)[0]
    return (values * 0.5 + 0.5).double().numpy().reshape(*size, 3)


def plain_tiles(low: np.ndarray, scale: int) -> np.ndarray:
    """A low-resolution picture of 36x42: tiles of 36x36, 4 apart, the last at the edge."""
    lists: list[list[list[np.ndarray]]] = [
        [[] for _ in range(42 * scale)] for _ in range(36 * scale)
    ]
    for left in (0, 4, 6):
        colours = plain_colours(low[:, left : left + 36], (36 * scale, 36 * scale))
        for row in range(36 * scale):
            for column in range(36 * scale):
                lists[row][left * scale + column].append(colours[row, column])
    return np.array([[np.mean(one, axis=0) for one in row] for row in lists])


def to_8_bits(colours: np.ndarray) -> np.ndarray:
    return np.round(colours.clip(0, 1) * 255) / 255


@pytest.mark.parametrize("scale", [2, 6])
@pytest.mark.parametrize("suite", ["set5", "div2k"])
def test_figures_are_those_of_the_plain_steps(tmp_path: Path, suite: str, scale: int) -> None:
    picture = photograph(HEIGHT, WIDTH)
    high = "benchmark/Set5/HR" if suite == "set5" else "div2k/DIV2K_valid_HR"
    (tmp_path / high).mkdir(parents=True)
    write_rgb(tmp_path / high / "a.png", picture)
    data = replace(find_suite(suite, tmp_path), protocol="ciaosr")
    pictures = Pictures(data, [(float(scale), float(scale))], "paper")
    model = str(save_model(tmp_path / "m.pth"))
    method = model_method(model, CPU, protocol="ciaosr")
    figures, store = SuiteFigures(None, None, [pictures], ["m"]), ResultStore(tmp_path / "r.json")
    asked = [pictures], [method], ["psnr"], store, figures
    (record,) = run_suites(*asked, device=CPU, progress=False)

    truth = np.ascontiguousarray(picture[:72, :84])
    if scale == 2:
        low = resize_matlab(truth, (36, 42))
        expected = to_8_bits(plain_tiles(low, scale))
    else:
        low = resize_pil(truth, (12, 14))
        expected = to_8_bits(plain_colours(low, (72, 84)))
    difference = (expected - truth / 255)[scale:-scale, scale:-scale]
    psnr = float(-10 * np.log10((difference**2).mean()))
    if suite == "set5":
        psnr = psnr_by_hand(expected, truth, (scale, scale))
    assert record["values"]["psnr"] == pytest.approx(psnr, abs=2e-3)  # a level of a few pixels
    assert (record["protocol"], record["size"]) == ("ciaosr", [72, 84])
    assert record["lr_source"] == ("matlab" if scale == 2 else "pil")
    assert pictures.truth_size(0, (scale, scale)) == (72, 84)


@pytest.mark.parametrize("dataset", ["benchmark", "div2k"])
def test_a_configuration_says_what_a_suite_does(tmp_path: Path, dataset: str) -> None:
    """The same steps, with low-resolution pictures by PIL as the wrapper makes them."""
    write_rgb(tmp_path / "high/a.png", photograph(HEIGHT, WIDTH))
    config = folder_config(tmp_path / "high", 2, f"{dataset}-2", protocol="ciaosr")
    both = ("psnr", "ssim")
    found, names = run_test(config, small_model(), CPU, Processes(), metrics=both)
    data = find_suite(str(tmp_path / "high"), tmp_path)
    data = replace(data, kind=dataset, protocol="ciaosr")
    pictures = Pictures(data, [(2.0, 2.0)], "pil")
    method = model_method(str(save_model(tmp_path / "m.pth")), CPU, protocol="ciaosr")
    figures, store = SuiteFigures(None, None, [pictures], ["m"]), ResultStore(tmp_path / "r.json")
    (record,) = run_suites([pictures], [method], both, store, figures, device=CPU, progress=False)
    assert names == ["a.png"]
    assert found.images[0].values == pytest.approx(record["values"], abs=1e-6)
    assert found.images[0].size == (72, 84)
    assert protocol(config)["border"] == "2x2"
    with pytest.raises(ConfigError, match=r"eval_type: 'div2k-2.5' given beside protocol ciaosr"):
        folder_config(tmp_path / "high", 2.5, "div2k-2.5", protocol="ciaosr")


def test_tiles_are_192_pixels_and_overlap_by_32() -> None:
    assert ciaosr_protocol.starts(192, 192) == [0]
    assert ciaosr_protocol.starts(193, 192) == [0, 1]
    assert ciaosr_protocol.starts(352, 192) == [0, 160]
    assert ciaosr_protocol.starts(500, 192) == [0, 160, 308]
    seen = []

    def enlarge(image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        seen.append((image.shape[:2], size))
        assert image.shape[0] * 2 == size[0]
        return torch.from_numpy(image.repeat(2, 0).repeat(3, 1)).permute(2, 0, 1).double()

    image = np.random.default_rng(0).integers(0, 256, (200, 500, 3))
    whole = ciaosr_protocol.enlarge_in_tiles(enlarge, image, (400, 1500))
    assert torch.equal(whole.permute(1, 2, 0), torch.from_numpy(image.repeat(2, 0).repeat(3, 1)))
    assert seen == [((192, 192), (384, 576))] * 6
    with pytest.raises(ConfigError, match="200x500 to 400x1250 pixels given"):
        ciaosr_protocol.enlarge_in_tiles(enlarge, image, (400, 1250))
    seen.clear()
    ciaosr_protocol.enlarge_in_tiles(enlarge, image[:32], (64, 1500))  # they would not advance
    assert seen == [((32, 500), (64, 1500))]


def test_records_of_one_protocol_are_never_those_of_the_other(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    data, model = find_suite("set5", tmp_path), str(save_model(tmp_path / "m.pth"))
    suites = [
        Pictures(one, [(2.0, 2.0)], "matlab") for one in (data, replace(data, protocol="ciaosr"))
    ]
    methods = [model_method(model, CPU, protocol=name) for name in ("paper", "ciaosr")]
    assert len({method.key for method in methods}) == 2
    bicubic = baseline_method("bicubic", CPU)
    assert len({record_key(bicubic, pictures, 0, (2.0, 2.0)) for pictures in suites}) == 2


def test_the_command_names_the_protocol_and_refuses_what_it_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark(tmp_path / "load")
    monkeypatch.chdir(tmp_path)
    arguments = ["--suite", "set5", "--baseline", "bicubic", "--protocol", "ciaosr"]
    code, output, errors = run(
        capsys, monkeypatch, *arguments, "--scales", 2, 3, "--json", "r.json"
    )
    assert code == 0, errors
    assert "LR: x2 x3 MATLAB bicubic, made on the fly" in output
    assert "CiaoSR's protocol: HR cut to multiples of 12; predictions rounded to 8 bits" in output
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["protocol"] == "ciaosr"
    assert {tuple(record["size"]) for record in document["results"]} == {(48, 48), (36, 60)}
    for given, message in (
        (("--scales", 2.5), "--scales: 2.5 given; allowed with protocol ciaosr: whole numbers"),
        (("--lr", "supplied"), "--lr: supplied given; allowed with protocol ciaosr: paper, matlab"),
    ):
        code, _, errors = run(capsys, monkeypatch, *arguments, *given)
        assert (code, message in errors) == (2, True), errors


def test_a_picture_of_which_nothing_remains_is_named(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", photograph(11, 40))
    data = replace(find_suite(str(tmp_path), tmp_path), protocol="ciaosr")
    with pytest.raises(DataError, match=r"a.png: 11x40 pixels; allowed .*: 12x12 and more"):
        Pictures(data, [(2.0, 2.0)], "paper").read(0)
