"""Hand a model on to other programs.

    python scripts/export.py --model MODEL --safetensors OUT.safetensors
    python scripts/export.py --model MODEL --onnx FOLDER

safetensors holds the weights, and the specification {name, args} as JSON under `model` in its
metadata; every script here takes it as --model. ONNX is two graphs, `encoder.onnx` (inp -> feat)
and `decoder.onnx` (feat, coord, cell -> rgb), for any batch, size and number of queries; a model
of several maps (LTE) has feat_0, feat_1 and so on in place of feat. `OnnxModel` below runs them.
What is written is read back and compared before it counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import liif.packages  # noqa: F401  (before all that may be missing)

# isort: split
import torch
from torch import Tensor, nn

from datasets.files import write_whole
from engine.imports import add_import_option, import_all
from engine.runtime import Parser, run_script
from engine.weights.pretrained import import_optional, load_model, load_with_spec, write_safetensors
from models.ciaosr import CiaoSR
from models.protocol import Features, ImplicitModel, implicit, maps_of
from utils import ConfigError, DataError, make_coord

TOLERANCE = 1e-5
GRAPHS = ("encoder.onnx", "decoder.onnx")
# (batch, height, width) of inputs and (height, width) of results that read-back models answer.
CHECKS = [((1, 9, 7), (20, 31)), ((2, 16, 24), (33, 24)), ((3, 5, 6), (5, 6))]

Model = Callable[[Tensor, Tensor, Tensor], Tensor]


class Encoder(nn.Module):
    """`gen_feat` of a model as a module of its own."""

    def __init__(self, model: ImplicitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inp: Tensor) -> Features:
        return self.model.gen_feat(inp)


class Decoder(nn.Module):
    """`query_rgb` of a model as a module of its own: maps, coord and cell -> rgb.

    Args:
        several: whether features are a tuple of maps.
    """

    def __init__(self, model: ImplicitModel, several: bool) -> None:
        super().__init__()
        self.model = model
        self.several = several

    def forward(self, *inputs: Tensor) -> Tensor:
        *maps, coord, cell = inputs
        return self.model.query_rgb(tuple(maps) if self.several else maps[0], coord, cell)


def check_graphs(model: ImplicitModel) -> None:
    """Raises ConfigError for a model whose steps are not the same for every picture and query."""
    reason = None
    if model.passes:
        reason = "sronet's colours depend on a mean over all pixels asked for"
    elif isinstance(model, CiaoSR):
        reason = "ciaosr's attention takes as many steps as the picture's size needs"
    elif model.window:
        reason = "encoder swinir's windows and masks depend on the picture's size"
    if reason:
        raise ConfigError(f"--onnx: {reason}; allowed: models without that")


def write_onnx(model: nn.Module, folder: Path) -> None:
    """Write the two graphs of a model (in evaluation mode, on the CPU) into a folder.

    Raises:
        ConfigError: a package is missing, or no graph can do what the model does.
        DataError: the folder or a file can't be written.
    """
    for package in ("onnx", "onnxscript"):
        import_optional(package, "to write ONNX graphs")
    check_graphs(implicit(model))
    inp, coord = torch.zeros(2, 3, 9, 7), torch.zeros(2, 11, 2)
    encoder = Encoder(implicit(model))
    with torch.inference_mode():
        feat = encoder(inp)
    several = not isinstance(feat, Tensor)
    names = [f"feat_{number}" for number in range(len(feat))] if several else ["feat"]
    maps = {name: one.clone() for name, one in zip(names, maps_of(feat), strict=True)}
    inputs = {**maps, "coord": coord, "cell": torch.ones_like(coord)}
    write_graph(folder / GRAPHS[0], encoder, {"inp": inp}, names)
    write_graph(folder / GRAPHS[1], Decoder(implicit(model), several), inputs, ["rgb"])


def write_graph(
    path: Path, module: nn.Module, inputs: dict[str, Tensor], outputs: list[str]
) -> None:
    """Write a graph for any batch, height and width (B, C, H, W) or number of queries (B, Q, 2)."""
    free = torch.export.Dim.DYNAMIC
    shapes: tuple[Any, ...] = tuple(
        dict.fromkeys((0, 2, 3) if value.dim() == 4 else (0, 1), free) for value in inputs.values()
    )
    # The exporter tells of its own workings, in warnings and on standard output.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=[*inputs],
            output_names=outputs,
            dynamic_shapes=(shapes,) if isinstance(module, Decoder) else shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    write_whole(path, program.model_proto.SerializeToString())


class OnnxModel:
    """The graphs of a folder, run by onnxruntime on the CPU: called as a model is.

    Raises:
        ConfigError: the package onnxruntime is missing.
        DataError: no graphs there, or damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        runtime = import_optional("onnxruntime", "to run ONNX graphs")
        self.sessions = []
        for path in (folder / name for name in GRAPHS):
            if not path.is_file():
                raise DataError(f"{path}: no such file")
            try:
                session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime has a class of its own for every failure
                reason = " ".join(str(error).split())
                raise DataError(f"{path}: damaged, or no graph ({reason})") from error
            self.sessions.append(session)

    def gen_feat(self, inp: Tensor) -> Features:
        """inp (B, 3, H, W) -> feat (B, C, H, W), or several maps."""
        maps = self._run(0, inp=inp)
        return maps["feat"] if "feat" in maps else tuple(maps.values())

    def query_rgb(self, feat: Features, coord: Tensor, cell: Tensor) -> Tensor:
        """feat from `gen_feat`, coord and cell (B, Q, 2) -> rgb (B, Q, 3)."""
        names = [entry.name for entry in self.sessions[0].get_outputs()]
        maps = dict(zip(names, maps_of(feat), strict=True))
        return self._run(1, **maps, coord=coord, cell=cell)["rgb"]

    def __call__(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return self.query_rgb(self.gen_feat(inp), coord, cell)

    def _run(self, number: int, **tensors: Tensor) -> dict[str, Tensor]:
        """The outputs of a graph by name, in their order."""
        session = self.sessions[number]
        # Inputs that no output depends on are left out of a graph.
        names = [entry.name for entry in session.get_inputs()]
        results = session.run(None, {name: tensors[name].numpy() for name in names})
        outputs = [entry.name for entry in session.get_outputs()]
        return {name: torch.from_numpy(one) for name, one in zip(outputs, results, strict=True)}


def difference(model: Model, other: Model) -> float:
    """The largest absolute difference between two models, for pictures and queries of all sizes."""
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for (batch, height, width), size in CHECKS:
        inp = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
        coord = make_coord(size).expand(batch, -1, -1).contiguous()
        cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(coord).contiguous()
        with torch.inference_mode():
            error = model(inp, coord, cell) - other(inp, coord, cell)
        largest = max(largest, float(error.abs().max()))
    return largest


def confirm(place: Path, model: Model, other: Model) -> None:
    """Say how well what was read back agrees; DataError where it does not."""
    largest = difference(model, other)
    if not largest <= TOLERANCE:
        raise DataError(f"{place}: differs from the model by {largest:.1e}; allowed: {TOLERANCE}")
    print(f"{place}: read back, differs by at most {largest:.1e}")


def main(given: Sequence[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--model", help="a file, or the name of published weights")
    parser.add_argument("--safetensors", type=Path, metavar="FILE", help="write the weights")
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="write the two graphs")
    add_import_option(parser)
    parser.add_argument(
        "--raw-weights", action="store_true", help="the weights as trained, not their EMA"
    )
    options = parser.parse_args(given)
    if options.safetensors is None and options.onnx is None:
        raise ConfigError("--safetensors or --onnx: missing; allowed: one of them, or both")
    if options.safetensors is not None and options.safetensors.suffix != ".safetensors":
        raise ConfigError(f"--safetensors: {options.safetensors} given; allowed: NAME.safetensors")
    import_all(options.imports)
    model, spec = load_with_spec(options.model, "cpu", options.raw_weights)
    if options.safetensors is not None:
        write_safetensors(options.safetensors, spec, model)
        confirm(options.safetensors, model, load_model(options.safetensors))
    if options.onnx is not None:
        write_onnx(model, options.onnx)
        confirm(options.onnx, model, OnnxModel(options.onnx))


if __name__ == "__main__":
    run_script(main)
