"""Tables of figures, ours beside the published ones, as text and as Markdown."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

PAPER_TABLES = Path(__file__).with_name("paper_tables.json")
DIGITS = {"psnr": 3, "ssim": 4, "lpips": 4, "dists": 4}
TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM (Y)", "lpips": "LPIPS (lower is better)"}
TITLES["dists"] = "DISTS (lower is better)"


# Model -> what its rows are called, and the published values of its arguments.
MLP: dict[str, Any] = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256] * 3}}
SUCCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "metasr": ("metasr", {}),
    "lte": ("lte", {"imnet_spec": MLP, "hidden_dim": 256}),
    "sronet": ("srno", {"width": 256, "blocks": 16}),
    "ciaosr": (
        "ciaosr",
        {"imnet_spec": {**MLP, "args": {**MLP["args"], "hidden_list": [256] * 4}}},
    ),
}


@dataclass(frozen=True)
class Row:
    """One line of a table. kind: "ours", "published", "difference" or "context"."""

    label: str
    kind: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Figures of one data set in one metric: a column per scale."""

    title: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def text(self) -> str:
        """For a terminal."""
        lines = [("method", *self.columns)]
        for row in self.rows:
            indent = "  " if row.kind in ("published", "difference") else ""
            lines.append((indent + row.label, *row.cells))
        first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
        head, *body = (
            "  ".join([label.ljust(first), *map(str.rjust, values, others)]).rstrip()
            for label, *values in lines
        )
        return "\n".join([self.title, *self.notes, head, "-" * len(head), *body])

    def markdown(self) -> str:
        """For a README."""
        lines = [f"**{self.title}**", "", *(f"{note}  " for note in self.notes), ""]
        lines.append("| " + " | ".join(["method", *self.columns]) + " |")
        lines.append("| --- |" + " ---: |" * len(self.columns))
        marks = {"ours": "**", "published": "", "difference": "", "context": "*"}
        for row in self.rows:
            mark = marks[row.kind]
            indent = "&emsp;" if row.kind in ("published", "difference") else ""
            lines.append("| " + " | ".join([f"{indent}{mark}{row.label}{mark}", *row.cells]) + " |")
        return "\n".join(lines)


@functools.cache
def paper_tables() -> dict[str, Any]:
    """Published PSNR by suite: `scales`, `rows` (null where none is known) and `sources`.

    `protocols` names that of rows which are not by the paper's.
    """
    return json.loads(PAPER_TABLES.read_text(encoding="utf-8"))


class Published(NamedTuple):
    """A row of published PSNR, with a value per scale, None where unknown.

    Attributes:
        comparable: whether figures were taken by the protocol in question.
    """

    source: str
    values: list[float | None]
    comparable: bool


def published_rows(
    suite: str, scales: Sequence[str], protocol: str = "paper"
) -> dict[str | None, Published]:
    """Published PSNR of a suite by row.

    Args:
        scales: texts such as "4" or "2x3.5"; rows without any of them are left out.
    """
    table = paper_tables().get(suite, {"scales": [], "rows": {}})
    result: dict[str | None, Published] = {}
    for name, figures in table["rows"].items():
        known = dict(zip((f"{scale:g}" for scale in table["scales"]), figures, strict=True))
        values = [known.get(scale) for scale in scales]
        if any(value is not None for value in values):
            own = table.get("protocols", {}).get(name, "paper")
            source = table["sources"].get(name, "paper")
            if own != protocol:
                source += f", by another protocol: {own}"
            result[name] = Published(source, values, own == protocol)
    return result


def paper_row(spec: Mapping[str, Any]) -> str | None:
    """The row of the paper's tables that a model's specification {name, args} belongs to, if any.

    Widths and depths other than the published ones belong to none.
    """
    args = spec.get("args", {})
    encoder = args.get("encoder_spec", {})
    encoder_args = dict(encoder.get("args", {}))
    encoder_args.pop("no_upsampling", None)
    scale = encoder_args.pop("scale", None)
    defaults: dict[str, Any] = {"n_resblocks": 16, "n_feats": 64, "res_scale": 1, "rgb_range": 1}
    defaults |= {"G0": 64, "RDNkSize": 3, "RDNconfig": "B"}
    name = encoder.get("name")
    if name not in ("edsr-baseline", "rdn") or any(
        defaults.get(key, value) != value for key, value in encoder_args.items()
    ):
        return None
    if spec.get("name") in SUCCESSORS:
        row, published = SUCCESSORS[spec["name"]]
        return f"{name}-{row}" if all(args.get(k, v) == v for k, v in published.items()) else None
    if spec.get("name") != "liif":
        return None
    imnet = args.get("imnet_spec")
    if imnet is None:
        return name if scale in (2, None) else None
    hidden = imnet.get("args", {}).get("hidden_list")
    switches = {"c": "cell_decode", "u": "feat_unfold", "e": "local_ensemble"}
    variants = [key for key, switch in switches.items() if not args.get(switch, True)]
    variants += ["d"] if hidden == [256, 256] else []
    if len(variants) > 1 or hidden not in ([256] * 4, [256, 256]):
        return None
    return f"{name}-liif" + (f" (-{variants[0]})" if variants else "")


@dataclass(frozen=True)
class Series:
    """Means of one method, a value per scale, and the published row that it belongs to."""

    label: str
    row: str | None
    values: tuple[float | None, ...]


def make_table(
    suite: str,
    metric: str,
    title: str,
    notes: Sequence[str],
    scales: Sequence[str],
    methods: Sequence[Series],
    protocol: str = "paper",
) -> Table:
    """Each method, and for PSNR its published row and the difference; then the other rows.

    There is no difference to figures that were taken by another protocol.
    """
    digits = DIGITS[metric]
    known = published_rows(suite, scales, protocol) if metric == "psnr" else {}
    rows: list[Row] = []
    for method in methods:
        rows.append(Row(method.label, "ours", cells(method.values, digits)))
        if method.row in known:
            source, published, comparable = known[method.row]
            rows.append(Row(f"published ({source})", "published", cells(published, None)))
            if not comparable:
                continue
            differences = [
                None if ours is None or theirs is None else ours - theirs
                for ours, theirs in zip(method.values, published, strict=True)
            ]
            rows.append(Row("difference", "difference", cells(differences, digits, sign="+")))
    shown = {method.row for method in methods}
    rows += [
        Row(f"{name} ({source})", "context", cells(values, None))
        for name, (source, values, _) in known.items()
        if name not in shown
    ]
    columns = tuple(f"x{scale}" for scale in scales)
    return Table(f"{title}, {TITLES[metric]}", tuple(notes), columns, tuple(rows))


def cells(values: Sequence[float | None], digits: int | None, sign: str = "") -> tuple[str, ...]:
    """Numbers as texts; published ones (digits None) with as many decimals as they are known to."""
    known = [value for value in values if value is not None]
    if digits is None:
        digits = 2 if all(round(value, 2) == value for value in known) else 3
    # Adding 0.0 turns what rounds to -0.0 into 0.0.
    return tuple(
        "-" if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"
        for value in values
    )
