"""Every tensor that a model makes lives where its inputs live.

Fake tensors know their device and shape but hold nothing, so this needs no CUDA device: an
operation on tensors of two devices is refused as a real one would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import models
from engine.config import Norm
from engine.normalisation import normalise
from engine.train.losses import training_loss

SMALL = {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True}
ENCODER = {"name": "edsr-baseline", "args": SMALL}
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8, 8]}}
SPECS: dict[str, dict[str, Any]] = {
    "edsr": SMALL,
    "edsr-baseline": {"n_resblocks": 1, "scale": 4},
    "rdn": {"RDNconfig": "A", "G0": 8, "scale": 3},
    "rcan": {"n_resgroups": 1, "n_resblocks": 1, "scale": 2},
    "mlp": {**IMNET["args"], "in_dim": 3},
    "liif": {"encoder_spec": ENCODER, "imnet_spec": IMNET},
    "metasr": {"encoder_spec": ENCODER},
}
CASES = {
    **{name: (name, args) for name, args in SPECS.items()},
    "liif-nearest": ("liif", {**SPECS["liif"], "local_ensemble": False, "cell_decode": False}),
    "liif-upsample": ("liif", {"encoder_spec": {"name": "edsr-baseline", "args": {}}}),
}


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """A mode in which "cuda" is a device like any other, whether or not there is one."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield mode


def backward(loss: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each parameter with its gradient, by the graph's own nodes.

    Autograd's engine insists on a real device; this walks the graph in its place.
    """
    waiting: Counter[Any] = Counter()
    found = [loss.grad_fn]
    for node in found:
        following = [following for following, _ in node.next_functions if following is not None]
        found += [following for following in dict.fromkeys(following) if following not in waiting]
        waiting.update(following)
    arrived: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready, gradients = [loss.grad_fn], []
    while ready:
        node = ready.pop()
        given = arrived[node]
        if hasattr(node, "variable"):
            # As the engine does: a sum over what was broadcast.
            gradients.append((node.variable, given[0].sum_to_size(node.variable.shape)))
            continue
        call = node if callable(node) else node.apply
        results = call(*[given.get(i) for i in range(max(given) + 1)])
        results = results if isinstance(results, tuple) else (results,)
        # A function written in Python also answers for its arguments that are no tensors.
        results = results[len(results) - len(node.next_functions) :]
        for (following, position), result in zip(node.next_functions, results, strict=True):
            if following is None:
                continue
            place = arrived.setdefault(following, {})
            if result is not None:
                place[position] = place[position] + result if position in place else result
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    return gradients


def inputs(name: str) -> tuple[Tensor, ...]:
    """For a model of this name, made in the mode at hand and on the default device."""
    if name in ("liif", "metasr"):
        cell = torch.full((2, 30, 2), 0.1)
        return torch.rand(2, 3, 6, 5), torch.rand(2, 30, 2), cell
    return (torch.rand(2, 4, 3) if name == "mlp" else torch.rand(2, 3, 6, 5),)


def test_every_registered_model_is_here() -> None:
    published = {"edsr", "edsr-baseline", "liif", "metasr", "mlp", "rcan", "rdn"}
    assert published <= set(models.models_registry.makers)
    assert {name for name, _ in CASES.values()} == published


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_model_stays_on_the_device_of_its_inputs(
    case: str, precision: torch.dtype, fake_cuda: FakeTensorMode
) -> None:
    name, args = CASES[case]
    with torch.device("cuda"):
        model = models.make({"name": name, "args": args})
        given = inputs(name)
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        answer = model(*given)
    assert answer.device.type == "cuda"
    gradients = backward(answer.float().square().mean())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter, _ in gradients} == {id(p) for p in trained}
    for parameter, gradient in gradients:
        assert gradient.device == parameter.device
        assert gradient.shape == parameter.shape


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("numbers", [[0.5], [0.4, 0.5, 0.6]], ids=["one", "per-channel"])
@pytest.mark.parametrize("case", ["liif", "liif-upsample", "metasr"])
def test_loss_of_training_stays_on_the_device(
    case: str, numbers: list[float], precision: torch.dtype, fake_cuda: FakeTensorMode
) -> None:
    """As `engine.train.loop.train_step` computes it, of what the loader gives."""
    norm = Norm(sub=numbers, div=numbers)
    name, args = CASES[case]
    with torch.device("cuda"):
        model = models.make({"name": name, "args": args})
        inp, coord, cell = inputs(name)
        gt = torch.rand(2, 30, 3)
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        colours = model(normalise(inp, norm, 1), coord, cell)
    loss = training_loss(colours, gt, norm)
    assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, ())
    gradients = backward(loss)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter, _ in gradients} == {id(p) for p in trained}
    assert all(gradient.device.type == "cuda" for _, gradient in gradients)
    with torch.device("cpu"), pytest.raises(RuntimeError, match="device"):
        training_loss(colours, torch.rand(2, 30, 3), norm)


@pytest.mark.parametrize("case", CASES)
def test_stray_tensor_is_refused(case: str, fake_cuda: FakeTensorMode) -> None:
    name, args = CASES[case]
    with torch.device("cuda"):
        model = models.make({"name": name, "args": args})
        given = inputs(name)
    for position in range(len(given)):
        strayed = list(given)
        with torch.device("cpu"):
            strayed[position] = inputs(name)[position]
        if unused(model, position):
            continue
        with pytest.raises(RuntimeError, match=r"device"):
            model(*strayed)


def unused(model: nn.Module, position: int) -> bool:
    """Whether a model never looks at this input: the cell of a model without cell decoding."""
    if position != 2 or not hasattr(model, "cell_decode"):
        return False
    return model.imnet is None or not model.cell_decode


@pytest.mark.parametrize("case", ["liif", "liif-nearest", "liif-upsample", "metasr"])
@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad])
def test_query_of_a_window_stays_on_the_device(
    case: str, grad: Callable[[], Any], fake_cuda: FakeTensorMode
) -> None:
    name, args = CASES[case]
    with torch.device("cuda"), grad():
        model = models.make({"name": name, "args": args})
        inp, coord, cell = inputs(name)
        feat = model.gen_feat(inp)
    size = (feat.shape[-2] + 4, feat.shape[-1] + 7)
    with grad():
        rgb = model.query_rgb(feat, coord, cell, size=size, origin=(2, 3))
    assert rgb.device.type == "cuda"
    assert rgb.shape == (2, 30, 3)
