"""What a model is to everything that renders, evaluates or exports it.

`ImplicitModel` is the contract. A registered model that has only the published methods is one
too, by way of `implicit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from models.layers import channels_last
from models.models import make
from utils import ConfigError

# One map or several (B, c, h, w), of one height and width: windows are cut out of all alike.
Features = Tensor | tuple[Tensor, ...]

# Queries at once where a model does not say: those of the published evaluation.
QUERY_CHUNK = 30000


class Target(NamedTuple):
    """What is known of a set of queries before the first is answered.

    Attributes:
        cell: (B, 2), height and width of the pixels asked for in the units of coordinates, one
            size per picture.
        size: (H, W) of the whole picture's codes.
        means: what the passes so far have found (`ImplicitModel.passes`).
    """

    cell: Tensor
    size: tuple[int, int]
    means: tuple[Tensor, ...] = ()


class ImplicitModel(nn.Module):
    """A picture as a continuous function: an encoder, and a decoding function of its features.

    A photograph is rendered (`engine.render`) in these steps:

    1. `encode` makes maps of features, of the whole photograph or of a window of it with `halo`
       input pixels around. Maps are what is kept, cut to windows, and saved in files.
    2. `project` makes of a window's maps what its queries look up, once per window and target.
    3. `accumulate` is summed over all queries, `passes` times, and divided by their number.
    4. `query_rgb` gives the colours of at most `query_chunk` queries at once.

    Where the peculiarities of published models go:

    - Several maps that are cut together (LTE's amplitudes and frequencies, CiaoSR's features and
      attention): `encode` and `project` may return tuples.
    - The input's pixels at query time (the bilinear residual of LTE, SRNO, CiaoSR): `encode` hands
      on `inp` as one more map, which is then cut, kept and saved like the others. What happens at
      the picture's border is decided by `size` and `origin`, never by the window's own border.
    - A statistic over all queries (SRNO's M of both layers): `passes = 2`; `accumulate` gives the
      sum over some queries, and `project` gets the means so far in its target and hands them on
      with the features. The set is what was asked: a box has the means of the box. `query_rgb` of
      features without means, as `gen_feat` makes them, takes those of its own queries.
    - Work that is done once per scale (LM-LIIF's modulations): `project` has the target's cell.
      Without a target it leaves its maps as they are, and `query_rgb` takes the cell of each
      picture's first query.
    - Features that depend on the whole photograph (RCAN, SwinIR, CiaoSR): `halo = None`. They are
      made in one piece, and windows are cut out of them all the same.

    Args:
        encoder_spec: any registered model that says its `out_dim`. Its `upscale` (1 if absent) is
            the number of output pixels per input pixel and axis; its `halo` (None if absent) and
            `window` (0 if absent) are this model's.

    Attributes:
        halo: how many input pixels around a window decide its maps; None: all of them.
        upscale: rows and columns of codes per row and column of input.
        window: before a photograph is rendered, its mirror image is added at the bottom and right
            up to the next multiple of this many pixels, as for SwinIR's published figures;
            coordinates and cells are those of the larger picture. 0: nothing is added.
        reach: how many codes beyond a query's nearest decide its colour, those that `project`
            looks at included; None: any, and windows are the whole picture.
        passes: how many means over all queries are needed before the first colour.
        may_upsample: whether the encoder may; not where codes lie on the input's pixels, which are
            looked up with them.
        data_norm: the normalisation (`engine.config.DataNorm`) that the weights were trained
            with; set by what loads them, None where nothing is known.
        trained_scale: the largest enlargement that they were trained for, likewise.
    """

    reach: int | None = 2
    passes: int = 0
    may_upsample: bool = True
    data_norm: Any = None
    trained_scale: float | None = None

    def __init__(self, encoder_spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.channels = make_encoder(encoder_spec)
        self.upscale: int = getattr(self.encoder, "upscale", 1)
        if self.upscale != 1 and not self.may_upsample:
            raise ConfigError(
                f"encoder_spec: an encoder that upsamples {self.upscale} times given; allowed: one "
                "that doesn't (no_upsampling: true)"
            )
        self.halo: int | None = getattr(self.encoder, "halo", None)
        self.window: int = getattr(self.encoder, "window", 0)

    @property
    def query_chunk(self) -> int:
        """How many queries at once are fastest, of all pictures of the batch together."""
        return QUERY_CHUNK

    def encode(self, inp: Tensor) -> Features:
        """inp (B, 3, H, W), normalised -> maps (B, c, upscale * H, upscale * W)."""
        return self.encoded(inp)

    def encoded(self, inp: Tensor) -> Tensor:
        """inp (B, 3, H, W), normalised -> the encoder's map (B, c, upscale * H, upscale * W).

        Raises:
            ConfigError: the encoder gives something else.
        """
        codes = self.encoder(channels_last(inp))
        size = tuple(length * self.upscale for length in inp.shape[-2:])
        wanted = (len(inp), self.channels, *size)
        if not isinstance(codes, Tensor) or codes.shape != wanted:
            is_map = isinstance(codes, Tensor)
            given = f"a map {tuple(codes.shape)}" if is_map else f"a {type(codes).__name__}"
            raise ConfigError(
                f"encoder_spec: {type(self.encoder).__name__} gives {given} of an input "
                f"{tuple(inp.shape)}; allowed: a map {wanted}, by its out_dim {self.channels} and "
                f"upscale {self.upscale}"
            )
        return codes

    def project(self, maps: Features, target: Target | None = None) -> Features:
        """Maps, whole or cut to a window -> what `query_rgb` and `accumulate` look up."""
        return maps

    def gen_feat(self, inp: Tensor) -> Features:
        """inp (B, 3, H, W), normalised -> everything about a picture that no query changes."""
        return self.project(self.encode(inp))

    def query_rgb(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The picture's values at any places.

        Args:
            feat: from `gen_feat` or `project`, of the whole picture or of a window.
            coord: (B, Q, 2), (y, x) in [-1, 1] over the whole picture.
            cell: (B, Q, 2), height and width of the pixels asked for, in the units of coord.
            size: (H, W) of the whole picture's codes, where feat is of a window.
            origin: (row, column) of the window's first code in the whole.

        Returns:
            float32 (B, Q, 3), in the units of the network.
        """
        raise NotImplementedError

    def accumulate(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The sum over these queries of what the next mean is of: float32 (B, ...)."""
        raise NotImplementedError

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """inp (B, 3, H, W), coord and cell (B, Q, 2) -> (B, Q, 3); see gen_feat, query_rgb."""
        return self.query_rgb(self.gen_feat(inp), coord, cell)


class PublishedModel(ImplicitModel):
    """A model with `gen_feat(inp)` and `query_rgb(feat, coord, cell)` alone, always used whole."""

    reach = None

    def __init__(self, module: Any) -> None:
        nn.Module.__init__(self)
        self.module = module
        self.upscale, self.halo, self.window = 1, None, 0
        self.data_norm = getattr(module, "data_norm", None)

    def encode(self, inp: Tensor) -> Features:
        return self.module.gen_feat(inp)

    def query_rgb(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        return self.module.query_rgb(feat, coord, cell)


def implicit(model: nn.Module) -> ImplicitModel:
    """A model as the contract has it: itself, or wrapped where it has the published methods."""
    return model if isinstance(model, ImplicitModel) else PublishedModel(model)


def each_map(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    """The same change to every map."""
    return change(features) if isinstance(features, Tensor) else tuple(map(change, features))


def maps_of(features: Features) -> tuple[Tensor, ...]:
    return (features,) if isinstance(features, Tensor) else features


def make_encoder(spec: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """An encoder, which is any registered model that says its `out_dim`, and its `out_dim`."""
    encoder = make(spec)
    channels = getattr(encoder, "out_dim", None)
    if not isinstance(channels, int):
        raise ConfigError(f"encoder_spec.name: {spec['name']!r} given; allowed: an encoder")
    return encoder, channels
