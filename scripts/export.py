"""Hand a model on to other programs.

    python scripts/export.py --model MODEL --safetensors OUT.safetensors
    python scripts/export.py --model MODEL --onnx FOLDER

safetensors holds the weights, and the specification {name, args} as JSON under `model` in its
metadata; every script here takes it as --model. ONNX is two graphs, `encoder.onnx` (inp -> feat)
and `decoder.onnx` (feat, coord, cell -> rgb), for any batch, size and number of queries;
`OnnxModel` below runs them. What is written is read back and compared before it counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from datasets.files import write_whole
from engine.runtime import Parser, run_script
from engine.weights.pretrained import import_optional, load_model, load_with_spec, write_safetensors
from models.protocol import Features, implicit
from utils import ConfigError, DataError, make_coord

TOLERANCE = 1e-5
GRAPHS = ("encoder.onnx", "decoder.onnx")
# (batch, height, width) of inputs and (height, width) of results that read-back models answer.
CHECKS = [((1, 9, 7), (20, 31)), ((2, 16, 24), (33, 24)), ((3, 5, 6), (5, 6))]


class Encoder(nn.Module):
    """`gen_feat` as a module: inp (B, 3, H, W) -> feat (B, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = implicit(model)

    def forward(self, inp: Tensor) -> Features:
        return self.model.gen_feat(inp)


class Decoder(nn.Module):
    """`query_rgb` as a module: feat (B, C, H, W), coord and cell (B, Q, 2) -> rgb (B, Q, 3)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = implicit(model)

    def forward(self, feat: Features, coord: Tensor, cell: Tensor) -> Tensor:
        return self.model.query_rgb(feat, coord, cell)


def write_onnx(model: nn.Module, folder: Path) -> None:
    """Write the two graphs of a model (in evaluation mode, on the CPU) into a folder.

    Raises:
        ConfigError: a package is missing.
        DataError: the folder or a file can't be written.
    """
    for package in ("onnx", "onnxscript"):
        import_optional(package, "to write ONNX graphs")
    free = torch.export.Dim.DYNAMIC
    inp, coord = torch.zeros(2, 3, 9, 7), torch.zeros(2, 11, 2)
    with torch.inference_mode():
        feat = Encoder(model)(inp)
    picture, queries = {0: free, 2: free, 3: free}, {0: free, 1: free}
    write_graph(folder / GRAPHS[0], Encoder(model), {"inp": inp}, "feat", [picture])
    arguments = {"feat": feat.clone(), "coord": coord, "cell": torch.ones_like(coord)}
    write_graph(folder / GRAPHS[1], Decoder(model), arguments, "rgb", [picture, queries, queries])


def write_graph(
    path: Path,
    module: nn.Module,
    arguments: dict[str, Tensor],
    result: str,
    dynamic: list[dict[int, Any]],
) -> None:
    """Write one graph, in one file, whose inputs have the names of `arguments`."""
    with tempfile.TemporaryDirectory() as scratch, quiet():
        file = Path(scratch) / path.name
        torch.onnx.export(
            module.eval(),
            tuple(arguments.values()),
            str(file),
            input_names=[*arguments],
            output_names=[result],
            dynamic_shapes=tuple(dynamic),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        write_whole(path, file.read_bytes())


@contextlib.contextmanager
def quiet() -> Any:
    """Without what the exporter says of its own workings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class OnnxModel:
    """The graphs of a folder, run by onnxruntime on the CPU: called as a model is.

    Raises:
        ConfigError: the package onnxruntime is missing.
        DataError: no graphs there, or damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        runtime = import_optional("onnxruntime", "to run ONNX graphs")
        self.sessions = []
        for name in GRAPHS:
            path = folder / name
            if not path.is_file():
                raise DataError(f"{path}: no such file")
            try:
                session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime has a class of its own for every failure
                reason = " ".join(str(error).split())
                raise DataError(f"{path}: damaged, or no graph ({reason})") from error
            self.sessions.append(session)

    def gen_feat(self, inp: Tensor) -> Tensor:
        """inp (B, 3, H, W) -> feat (B, C, H, W)."""
        return self._run(0, inp=inp)

    def query_rgb(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """feat from `gen_feat`, coord and cell (B, Q, 2) -> rgb (B, Q, 3)."""
        return self._run(1, feat=feat, coord=coord, cell=cell)

    def __call__(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return self.query_rgb(self.gen_feat(inp), coord, cell)

    def _run(self, number: int, **tensors: Tensor) -> Tensor:
        session = self.sessions[number]
        # Inputs that no output depends on are left out of a graph.
        names = [entry.name for entry in session.get_inputs()]
        return torch.from_numpy(session.run(None, {n: tensors[n].numpy() for n in names})[0])


def difference(model: nn.Module, other: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
    """The largest absolute difference of answers, to pictures and queries of several sizes."""
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for (batch, height, width), size in CHECKS:
        inp = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
        coord = make_coord(size).expand(batch, -1, -1).contiguous()
        cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(coord).contiguous()
        with torch.inference_mode():
            expected = model(inp, coord, cell)
            largest = max(largest, float((expected - other(inp, coord, cell)).abs().max()))
    return largest


def confirm(
    place: Path, model: nn.Module, other: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    """Say how well what was read back agrees; DataError where it does not."""
    largest = difference(model, other)
    if not largest <= TOLERANCE:
        raise DataError(f"{place}: differs from the model by {largest:.1e}; allowed: {TOLERANCE}")
    print(f"{place}: read back, differs by at most {largest:.1e}")


def parse_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a file, or the name of published weights")
    parser.add_argument("--safetensors", type=Path, metavar="FILE", help="write the weights")
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="write the two graphs")
    parser.add_argument("--raw-weights", action="store_true", help="not the weights' average")
    options = parser.parse_args(given)
    if options.safetensors is None and options.onnx is None:
        raise ConfigError("--safetensors or --onnx: missing; allowed: one of them, or both")
    if options.safetensors is not None and options.safetensors.suffix != ".safetensors":
        raise ConfigError(f"--safetensors: {options.safetensors} given; allowed: NAME.safetensors")
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = parse_arguments(given)
    model, spec = load_with_spec(options.model, "cpu", options.raw_weights)
    if options.safetensors is not None:
        write_safetensors(options.safetensors, spec, model)
        confirm(options.safetensors, model, load_model(options.safetensors))
    if options.onnx is not None:
        write_onnx(model, options.onnx)
        confirm(options.onnx, model, OnnxModel(options.onnx))
    return 0


if __name__ == "__main__":
    run_script(main)
