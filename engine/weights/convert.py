"""Other projects' files: mmagic's checkpoints in this project's layout, SwinIR's as a start.

mmagic (formerly mmediting), whose layout CiaoSR's published checkpoints have, keeps its network's
weights under `generator.`, those of the encoder at the top level. What the layers are called there
says which encoder it is, and their shapes say how large: nothing else in such a file does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from engine.weights.checkpoint import read_tensors
from models.models import fitting_weights, load_weights
from models.rdn import SIZES
from models.swinir import SwinIR
from utils import DataError, UserError

State = Mapping[str, Tensor]

# Encoder -> patterns of mmagic's names, and ours. EDSR's last convolution follows its blocks.
NAMES = {
    "edsr-baseline": {
        r"conv_first\.": "encoder.head.0.",
        r"body\.(\d+)\.conv1\.": r"encoder.body.\1.body.0.",
        r"body\.(\d+)\.conv2\.": r"encoder.body.\1.body.2.",
        r"conv_after_body\.": "encoder.body.{n_resblocks}.",
    },
    "rdn": {
        r"sfe(1|2)\.": r"encoder.SFENet\1.",
        r"rdbs\.(\d+)\.layers\.(\d+)\.conv\.": r"encoder.RDBs.\1.convs.\2.conv.0.",
        r"rdbs\.(\d+)\.lff\.": r"encoder.RDBs.\1.LFF.",
        r"gff\.": "encoder.GFF.",
    },
    "swinir": {r"(conv_first|patch_embed|layers|norm|conv_after_body)\.": r"encoder.\1."},
}
# Known without a file, and not in all of them, or of the size of a training picture.
BUFFERS = ("attn_mask", "relative_position_index")  # of SwinIR
CONSTANTS = re.compile(rf"encoder\.((sub|add)_mean\.|.*\.({'|'.join(BUFFERS)})$)")
DIV2K_MEAN = {"sub": [0.4488, 0.4371, 0.4040], "div": [1.0]}


def converted(path: str | Path) -> dict[str, Any]:
    """A file of mmagic's as a checkpoint {"model": {name, args, sd}, "epoch", "config"}.

    `config.data_norm` is what both CiaoSR and mmagic's LIIF are trained with: DIV2K's mean colour
    subtracted.

    Raises:
        DataError: in one line, why it can't be converted: not readable, of another model, or with
            weights that are missing or unknown.
    """
    state = generator_of(read_tensors(Path(path)))
    try:
        spec = spec_of(state)
    except (KeyError, IndexError):
        raise DataError(
            f"{path}: no LIIF or CiaoSR in mmagic's names; allowed: a `state_dict` with "
            "`generator.imnet` or `generator.imnet_q`, and an EDSR, RDN or SwinIR beside it"
        ) from None
    try:
        weights = renamed(state, spec)
        with torch.device("meta"):  # sizes are checked before any memory is taken
            expected = models.make(spec)
            constants = filter(CONSTANTS.match, expected.state_dict())
            known = {name: expected.state_dict()[name] for name in constants}
            fitting_weights(expected, {**weights, **known}, spec["name"])
    except UserError as error:
        raise DataError(f"{path}: {error}") from error
    built = models.make(spec).state_dict()
    weights = {**weights, **{name: built[name] for name in known}}
    norm = {"inp": DIV2K_MEAN, "gt": DIV2K_MEAN}
    return {"model": {**spec, "sd": weights}, "epoch": 0, "config": {"data_norm": norm}}


def generator_of(content: Any) -> dict[str, Tensor]:
    """The network's weights of a file, without their prefix; none where it holds no such thing."""
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        return {}
    return {str(name).removeprefix("generator."): value for name, value in state.items()}


def spec_of(state: State) -> dict[str, Any]:
    """{name, args} of the model that these weights belong to.

    Raises:
        KeyError, IndexError: they belong to none that is known here.
    """
    name, last = ("ciaosr", "imnet_q") if "imnet_q.layers.0.weight" in state else ("liif", "imnet")
    widths = [state[key].shape[0] for key in numbered(state, rf"{last}\.layers\.(\d+)\.weight")]
    imnet = {"name": "mlp", "args": {"out_dim": widths[-1], "hidden_list": widths[:-1]}}
    return {"name": name, "args": {"encoder_spec": encoder_spec(state), "imnet_spec": imnet}}


def encoder_spec(state: State) -> dict[str, Any]:
    """{name, args} of the encoder; errors as `spec_of`."""
    if "sfe1.weight" in state:
        layers = numbered(state, r"rdbs\.0\.layers\.(\d+)\.conv\.weight")
        size = len(numbered(state, r"rdbs\.(\d+)\.lff\.weight")), len(layers)
        letters = {(blocks, convs): letter for letter, (blocks, convs, _) in SIZES.items()}
        args = {"G0": state["sfe1.weight"].shape[0], "RDNconfig": letters[size]}
        return {"name": "rdn", "args": {**args, "no_upsampling": True}}
    width = state["conv_first.weight"].shape[0]
    if "patch_embed.norm.weight" not in state:
        blocks = len(numbered(state, r"body\.(\d+)\.conv1\.weight"))
        args = {"n_resblocks": blocks, "n_feats": width, "no_upsampling": True}
        return {"name": "edsr-baseline", "args": args}
    table = r"layers\.{}\.residual_group\.blocks\.(\d+)\.attn\.relative_position_bias_table"
    layers = numbered(state, r"layers\.(\d+)\.conv\.weight")
    tables = [numbered(state, table.format(layer)) for layer in range(len(layers))]
    heads = [state[blocks[0]].shape[1] for blocks in tables]
    args = {"embed_dim": width, "depths": [*map(len, tables)], "num_heads": heads}
    return {"name": "swinir", "args": {"tail": False, **args}}


def numbered(state: State, pattern: str) -> list[str]:
    """The names that a pattern with one number fits, by that number."""
    found = [match for name in state if (match := re.fullmatch(pattern, name))]
    return [match[0] for match in sorted(found, key=lambda match: (len(match[1]), match[1]))]


def renamed(state: State, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights under our names; those that are not the encoder's keep theirs.

    Raises:
        DataError: two weights for one name.
    """
    encoder = spec["args"]["encoder_spec"]
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        for theirs, ours in NAMES[encoder["name"]].items():
            if match := re.match(theirs, name):
                name = match.expand(ours.format(**encoder["args"])) + name[match.end() :]
                break
        if name in result:
            raise DataError(f"two weights are {name}")
        result[name] = value
    return result


def official_swinir(content: Any) -> Mapping[str, Any] | None:
    """The state dict in a file of SwinIR's authors, which has no specification; None elsewhere."""
    if not isinstance(content, Mapping) or "model" in content:
        return None
    weights = content.get("params_ema", content.get("params"))
    return weights if isinstance(weights, Mapping) else None


def load_encoder(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Start a model's encoder from SwinIR's own weights, without the enlargement after them.

    Raises:
        DataError: another encoder, or another size of it.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, SwinIR):
        raise DataError("weights of SwinIR; allowed for models whose encoder is swinir")
    own = encoder.state_dict()
    tail = () if encoder.conv_before_upsample is not None else ("conv_before_upsample.",)
    kept = {
        k: v for k, v in weights.items() if not k.startswith(("upsample.", "conv_last.", *tail))
    }
    # Buffers hold no training: theirs may be of another picture size, or left out.
    buffers = {key: value for key, value in own.items() if key.endswith(BUFFERS)}
    load_weights(encoder, {**kept, **buffers}, "swinir")
