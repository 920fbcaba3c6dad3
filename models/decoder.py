"""The decoding function f on many rows: look-up, offset and cell, hidden layers.

On a CPU, rows are worked through in blocks that stay in its cache, forward and backward, and a
block's activations are written over where nobody needs them again. Left to autograd, every step of
every layer would stream all rows through memory; the results are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows of a block per core, whose cache then holds its input and output (benchmarks/README.md).
ROWS_PER_CORE = 1024


def block_rows() -> int:
    """How many rows are worked through at once."""
    return ROWS_PER_CORE * torch.get_num_threads()


class Workspace:
    """Memory for one block's activations, handed out again and again unless they are kept."""

    def __init__(self, keep: bool, size: int) -> None:
        self.keep = keep
        self.size = size
        self.memory: dict[tuple[int, torch.dtype], Tensor] = {}

    def give(self, place: int, rows: int, width: int, dtype: torch.dtype, like: Tensor) -> Tensor:
        """An uninitialised (rows, width); unless kept, the same memory for each `place`."""
        if self.keep:
            return like.new_empty(rows, width, dtype=dtype)
        held = self.memory.get((place, dtype))
        if held is None or held.numel() < rows * width:
            held = like.new_empty(self.size * width, dtype=dtype)
            self.memory[place, dtype] = held
        return held[: rows * width].view(rows, width)


class Decode(torch.autograd.Function):
    """Predictions of f for R rows; see `decode`."""

    @staticmethod
    def forward(
        ctx: Any,
        keep: bool,
        dtype: torch.dtype,
        table: Tensor,
        row: Tensor,
        rel_coord_cell: Tensor,
        first: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        weights = [weight.to(dtype) for weight in rest[0::2]]
        biases = [bias.to(dtype) for bias in rest[1::2]]
        count = row.shape[0]
        kept: list[Tensor] = []
        size = min(block_rows(), count)
        work = Workspace(keep, size)
        out_dim = biases[-1].shape[0] if biases else table.shape[1]
        predictions = table.new_empty(count, out_dim, dtype=dtype if weights else table.dtype)
        blocks = (one.split(size) for one in (row, rel_coord_cell, predictions))
        for rows, offset, prediction in zip(*blocks, strict=True):
            n = rows.shape[0]
            place = work.give(0, n, table.shape[1], table.dtype, table) if weights else prediction
            x = torch.index_select(table, 0, rows, out=place).addmm_(offset, first.t())
            if weights:
                x.relu_()
            if weights and dtype != table.dtype:
                x = work.give(0, n, table.shape[1], dtype, table).copy_(x)
            for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                last = i == len(weights) - 1
                if keep:
                    kept.append(x)
                out = prediction if last else work.give((i + 1) % 2, n, bias.shape[0], dtype, table)
                x = torch.addmm(bias, x, weight.t(), out=out)
                if not last:
                    x.relu_()
        ctx.layers = len(weights)
        ctx.table_rows = table.shape[0]
        ctx.out_dtype = dtype
        if keep:
            ctx.save_for_backward(row, rel_coord_cell, first, *weights, *kept)
        return predictions.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        row, rel_coord_cell, first, *saved = ctx.saved_tensors
        n = ctx.layers
        weights, kept = saved[:n], saved[n:]
        size = min(block_rows(), row.shape[0])
        with torch.autocast(grad.device.type, enabled=False):
            # Weights' gradients are summed transposed, as (in, out): the faster product on CPU.
            table_grad = grad.new_zeros(ctx.table_rows, first.shape[0])
            first_grad = grad.new_zeros(first.shape[1], first.shape[0])
            offset_grad = torch.empty_like(rel_coord_cell) if ctx.needs_input_grad[4] else None
            weight_grads = [grad.new_zeros(weight.shape[1], weight.shape[0]) for weight in weights]
            bias_grads = [grad.new_zeros(weight.shape[0]) for weight in weights]
            work = Workspace(False, size)
            for i, start in enumerate(range(0, row.shape[0], size)):
                block = slice(start, start + size)
                g = grad[block].to(ctx.out_dtype) if n else grad[block]
                for layer in reversed(range(n)):
                    x = kept[i * n + layer]
                    add_product(weight_grads[layer], x.t(), g)
                    bias_grads[layer] += g.sum(0, dtype=torch.float32)
                    out = work.give(layer % 2, x.shape[0], x.shape[1], x.dtype, x)
                    g = torch.mm(g, weights[layer], out=out)
                    torch.ops.aten.threshold_backward.grad_input(g, x, 0, grad_input=g)
                g = g.to(first.dtype)
                first_grad.addmm_(rel_coord_cell[block].t(), g)
                table_grad.index_add_(0, row[block], g)
                if offset_grad is not None:
                    torch.mm(g, first, out=offset_grad[block])
        rest = [
            part
            for weight, bias in zip(weight_grads, bias_grads, strict=True)
            for part in (weight.t(), bias)
        ]
        return None, None, table_grad, None, offset_grad, first_grad.t(), *rest


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, total in float32."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def decode(
    dtype: torch.dtype,
    table: Tensor,
    row: Tensor,
    rel_coord_cell: Tensor,
    first: Tensor,
    layers: Sequence[torch.nn.Linear],
) -> Tensor:
    """f at (code, offset, cell), row by row.

    Args:
        dtype: precision of the products of the hidden layers.
        table: float32 (codes, C): the first layer at each code, without offset and cell.
        row: (R,) the code of each row.
        rel_coord_cell: float32 (R, k) offset and cell.
        first: (C, k) the first layer's weights of offset and cell.
        layers: f's other layers; a ReLU stands before each.

    Returns:
        float32 (R, out); differentiable, on a CPU once, in everything but `row`.
    """
    with torch.autocast(table.device.type, enabled=False):
        table, first = table.float(), first.float()
        if table.device.type == "cpu" and not torch.compiler.is_compiling():
            parameters = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
            tensors = (table, row, rel_coord_cell, first, *parameters)
            keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
            return Decode.apply(keep, dtype, *tensors)
        # On a GPU there is no such cache; a graph (torch.compile, ONNX) of the loop over blocks
        # would hold every block, and be slow to make and to run.
        x = torch.addmm(table.index_select(0, row), rel_coord_cell, first.t())  # (R, C)
        for layer in layers:
            weight, bias = layer.weight.to(dtype), layer.bias.to(dtype)
            x = F.linear(x.relu_().to(dtype), weight, bias)
        return x.float()
