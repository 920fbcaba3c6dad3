"""LIIF and Meta-SR against published figures and against the plain computation."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import models
from models.decoder import decode
from tests.conformance import arrays, cases, error, fill_weights, float32, rng
from tests.oracle import plain, predict
from utils import make_coord

ENCODER = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True}}
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
Batch = tuple[Tensor, Tensor, Tensor]


def liif_spec(hidden: list[int], **switches: bool) -> dict[str, Any]:
    imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": hidden}}
    return {"name": "liif", "args": {"encoder_spec": ENCODER, "imnet_spec": imnet, **switches}}


METASR = {"name": "metasr", "args": {"encoder_spec": ENCODER}}
UPSAMPLE = {
    "name": "liif",
    "args": {"encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}}},
}


def pair(spec: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The model and its plain counterpart, of the same weights."""
    return fill_weights(models.make(spec)), fill_weights(plain(spec))


def largest_gradient_error(model: nn.Module, other: nn.Module) -> float:
    """The largest difference, relative to the largest number of its tensor if that is above 1."""
    pairs = zip(model.named_parameters(), other.named_parameters(), strict=True)
    errors = []
    for (name, ours), (_, theirs) in pairs:
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None and theirs.grad is not None:
            largest = theirs.grad.abs().max().clamp(min=1)
            errors.append((ours.grad - theirs.grad).abs().max().item() / largest.item())
    assert errors
    return max(errors)


@pytest.mark.parametrize("name", cases("model"))
def test_model_gives_published_values(name: str) -> None:
    model = fill_weights(models.make(cases("model")[name]["spec"]))
    short = name.split("/", 1)[1]
    inp = float32(rng("input:" + short).uniform(-1, 1, (2, 3, 6, 8)))
    coord, cell, expected = (arrays()[f"{name}/{part}"] for part in ("coord", "cell", "y"))
    with torch.no_grad():
        assert error(model(inp, coord, cell), expected) < 1e-5
        feat = model.gen_feat(inp)
        parts = [
            model.query_rgb(feat, coord[:, q], cell[:, q]) for q in (slice(50), slice(50, None))
        ]
    assert error(torch.cat(parts, 1), expected) < 1e-5


@pytest.mark.parametrize("name", cases("model"))
def test_oracle_gives_published_values(name: str) -> None:
    model = fill_weights(plain(cases("model")[name]["spec"]))
    short = name.split("/", 1)[1]
    inp = float32(rng("input:" + short).uniform(-1, 1, (2, 3, 6, 8)))
    coord, cell, expected = (arrays()[f"{name}/{part}"] for part in ("coord", "cell", "y"))
    assert error(predict(model, inp, coord, cell), expected) < 1e-5


@pytest.mark.parametrize("name", cases("train"))
def test_training_gives_published_losses(name: str) -> None:
    case = cases("train")[name]
    model = fill_weights(models.make(case["spec"]))
    r = rng("train")
    inp = float32(r.uniform(0, 1, (4, 3, 12, 12)))
    coord = float32(r.uniform(-1, 1, (4, 96, 2)))
    gt = float32(r.uniform(0, 1, (4, 96, 3)))
    kind = OPTIMIZERS[case["optimizer"]["name"]]
    optimizer = kind(model.parameters(), **case["optimizer"]["args"])
    losses = []
    for _ in range(5):
        answer = model((inp - 0.5) / 0.5, coord, torch.full_like(coord, 2 / 36))
        loss = (answer - (gt - 0.5) / 0.5).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(case["losses"], abs=1e-5)


def hard_values(length: int) -> st.SearchStrategy[float]:
    """Positions along an axis: anywhere, on code centres, on borders between codes, at the ends."""
    places = st.integers(0, 2 * length).map(lambda half: -1 + half / length)
    return st.one_of(st.floats(-1, 1, width=32), places, st.sampled_from([-1.0, 1.0, 0.0]))


@st.composite
def queries(draw: st.DrawFn, height: int, width: int, batch: int) -> tuple[Tensor, Tensor]:
    """coord and cell (batch, Q, 2), of single queries or of a grid, per picture of the batch."""
    if draw(st.booleans()):
        grid = (draw(st.integers(1, 5 * height)), draw(st.integers(1, 5 * width)))
        coord = make_coord(grid).expand(batch, -1, 2)
        return coord, torch.tensor([2 / grid[0], 2 / grid[1]]).expand_as(coord)
    place = st.tuples(hard_values(height), hard_values(width))
    count = draw(st.integers(1, 20))
    coord = torch.tensor([[draw(place) for _ in range(count)] for _ in range(batch)])
    size = st.tuples(st.floats(0.015625, 2, width=32), st.floats(0.015625, 2, width=32))
    return coord, torch.tensor([draw(size) for _ in range(batch)])[:, None].expand_as(coord)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Any], Batch]:
    """A specification and a batch for it."""
    kind = draw(st.sampled_from(["liif", "liif", "liif", "metasr", "upsample"]))
    if kind == "liif":
        hidden = draw(st.lists(st.sampled_from([1, 4, 16]), max_size=3))
        switches = {
            key: draw(st.booleans()) for key in ("local_ensemble", "feat_unfold", "cell_decode")
        }
        spec = liif_spec(hidden, **switches)
    else:
        spec = METASR if kind == "metasr" else UPSAMPLE
    batch = draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**31))
    inp = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return spec, (inp, *draw(queries(height, width, batch)))


@given(problems())
@settings(max_examples=100, deadline=None)
def test_results_are_those_of_the_plain_computation(problem: tuple[dict[str, Any], Batch]) -> None:
    spec, batch = problem
    model, oracle = pair(spec)
    with torch.no_grad():
        expected = oracle(*batch)
        # Of the picture's largest value: Meta-SR's reach 35, and small ones are sums of such.
        size = expected.abs().max().clamp(min=1)
        assert error(model(*batch) / size, expected / size) < 1e-5


@given(problems())
@settings(max_examples=40, deadline=None)
def test_gradients_are_those_of_the_plain_computation(
    problem: tuple[dict[str, Any], Batch],
) -> None:
    spec, batch = problem
    model, oracle = pair(spec)
    for network in (model, oracle):
        network(*batch).square().mean().backward()
    assert largest_gradient_error(model, oracle) < 1e-5


def test_in_dim_is_worked_out_whatever_is_given() -> None:
    spec = liif_spec([8])
    spec["args"]["imnet_spec"]["args"]["in_dim"] = 5
    assert models.make(spec).imnet.linears[0].in_features == 9 * 8 + 4
    assert spec["args"]["imnet_spec"]["args"]["in_dim"] == 5


@pytest.mark.parametrize("hidden", [[], [7], [16, 5, 9]])
def test_decoding_at_once_and_in_blocks_agree(
    hidden: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What GPUs and graphs do, in one piece and by autograd, and what CPUs do."""
    torch.manual_seed(0)
    mlp = models.make({"name": "mlp", "args": {"in_dim": 4, "out_dim": 3, "hidden_list": hidden}})
    width = hidden[0] if hidden else 3
    row = torch.randint(20, (3000,))
    results = []
    for whole in (True, False):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda whole=whole: whole)
        torch.manual_seed(1)
        given = [torch.randn(*shape) for shape in ((20, width), (3000, 4), (width, 4))]
        for tensor in given:
            tensor.requires_grad_()
        mlp.zero_grad()
        table, columns, first = given
        rgb = decode(torch.float32, table, row, columns, first, mlp.linears[1:])
        rgb.square().sum().backward()
        layers = [parameter.grad for layer in mlp.linears[1:] for parameter in layer.parameters()]
        results.append([rgb.detach(), *(tensor.grad for tensor in given), *layers])
    for at_once, in_blocks in zip(*results, strict=True):
        assert error(at_once, in_blocks) < 1e-5


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_window_of_the_features_gives_the_same_values(data: st.DataObject) -> None:
    """Queries in a window, from its codes and `reach` more on each side, cut before `project`."""
    spec, (inp, _, _) = data.draw(problems())
    model = fill_weights(models.make(spec))
    with torch.no_grad():
        maps = model.encode(inp)
    height, width = maps.shape[-2:]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom = data.draw(st.integers(top + 1, height))
    right = data.draw(st.integers(left + 1, width))
    # Pixels of a finer grid whose centres lie in the window.
    fine_y, fine_x = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    grid = make_coord((height * fine_y, width * fine_x), flatten=False)
    coord = grid[top * fine_y : bottom * fine_y, left * fine_x : right * fine_x].reshape(1, -1, 2)
    coord = coord.expand(inp.shape[0], -1, 2)
    cell = torch.tensor([2 / (height * fine_y), 2 / (width * fine_x)]).expand_as(coord)
    first_row, first_column = max(top - model.reach, 0), max(left - model.reach, 0)
    window = maps[..., first_row : bottom + model.reach, first_column : right + model.reach]
    with torch.no_grad():
        whole = model.query_rgb(model.project(maps), coord, cell)
        part = model.query_rgb(
            model.project(window),
            coord,
            cell,
            size=(height, width),
            origin=(first_row, first_column),
        )
    assert error(part, whole) < 1e-6


def training_batch(height: int, queried: int) -> Batch:
    generator = torch.Generator().manual_seed(height)
    inp = torch.randn(2, 3, height, height, generator=generator)
    coord = torch.rand(2, queried, 2, generator=generator) * 2 - 1
    return inp, coord, torch.full_like(coord, 2 / (3 * height))


SWITCHES = [
    dict(zip(("local_ensemble", "feat_unfold", "cell_decode"), values, strict=True))
    for values in product([True, False], repeat=3)
]


@pytest.mark.parametrize(
    "spec",
    [METASR, UPSAMPLE, liif_spec([]), *(liif_spec([24, 24], **switches) for switches in SWITCHES)],
    ids=lambda spec: "-".join(str(value) for value in spec["args"].values() if value in (0, 1)),
)
def test_fifty_steps_give_the_losses_of_the_plain_computation(spec: dict[str, Any]) -> None:
    inp, coord, cell = training_batch(10, 120)
    target = torch.sin(4 * coord.sum(-1, keepdim=True) + torch.arange(3))
    losses = []
    for network in pair(spec):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        seen = []
        for _ in range(50):
            loss = (network(inp, coord, cell) - target).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("spec", [liif_spec([64, 64, 64]), METASR], ids=["liif", "metasr"])
def test_bf16_stays_near_fp32(spec: dict[str, Any]) -> None:
    model = fill_weights(models.make(spec))
    inp, coord, cell = training_batch(12, 400)
    with torch.no_grad():
        exact = model(inp, coord, cell)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(inp, coord, cell)
    assert rough.dtype == torch.float32
    deviation = (rough - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < deviation < 0.02


@pytest.mark.cuda
@pytest.mark.parametrize("spec", [liif_spec([24, 24]), METASR], ids=["liif", "metasr"])
def test_decoder_on_cuda_is_the_cpus(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """From features to colours, and back to the gradients of features and weights."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    _, coord, cell = training_batch(10, 400)
    features = torch.randn(2, 8, 10, 10, generator=torch.Generator().manual_seed(0))
    values, gradients, networks = [], [], []
    for device in ("cpu", "cuda"):
        network = fill_weights(models.make(spec)).to(device)
        given = features.clone().to(device).requires_grad_()
        answer = network.query_rgb(network.project(given), coord.to(device), cell.to(device))
        assert answer.device.type == device
        answer.square().mean().backward()
        assert given.grad is not None
        values.append(answer.detach().cpu())
        gradients.append(given.grad.cpu())
        networks.append(network.cpu())
    assert error(values[1], values[0]) < 1e-4
    assert error(gradients[1], gradients[0]) < 1e-4
    assert largest_gradient_error(networks[1], networks[0]) < 1e-4


def test_cell_is_asked_for() -> None:
    inp, coord, _ = training_batch(4, 5)
    for spec in (liif_spec([8]), METASR):
        with pytest.raises(ValueError, match="cell"):
            models.make(spec)(inp, coord)
    assert models.make(liif_spec([8], cell_decode=False))(inp, coord).shape == (2, 5, 3)


def test_nothing_is_kept_between_calls() -> None:
    model = models.make(liif_spec([8]))
    before = set(vars(model))
    model(*training_batch(4, 5))
    assert set(vars(model)) == before
