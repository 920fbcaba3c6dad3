"""Measure models on test data: one configuration, or the paper's tables at once.

python test.py --config configs/test/test-set5-2.yaml --model MODEL.pth
python test.py --suite set5 set14 b100 urban100 div2k --model MODEL.pth --baseline bicubic
"""

from __future__ import annotations

import liif.packages  # noqa: F401  (before all that may be missing)

# isort: split
import argparse
import dataclasses
import os
import signal
import sys
from typing import Any, cast

from datasets.files import check_writable, make_folder
from engine import distributed
from engine.config import DataNorm, Precision, config_dict, read_test_config
from engine.evaluate.metrics import METRICS, check_metrics
from engine.evaluate.suite_data import LR_SOURCES, PROTOCOLS
from engine.evaluate.suite_report import run_and_report
from engine.evaluate.suite_results import write_json
from engine.evaluate.test_config import document, protocol, run_test
from engine.imports import add_import_option, import_all, no_silent_exit
from engine.normalisation import same_norm
from engine.render import baselines
from engine.runtime import (
    PRECISIONS,
    Parser,
    nonempty,
    nonempty_path,
    run_script,
    say,
    settle_precision,
)
from engine.weights.pretrained import load_model
from utils import ConfigError

SUITE_OPTIONS = (
    "predictions", "scales", "lr", "data_root", "markdown", "panels", "eval_bsize",
    "cell_max_scale", "strips", "protocol", "degrade",
)  # fmt: skip


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", help="a test configuration (YAML)")
    suites = "set5 set14 b100 urban100 div2k, or folders"
    add("--suite", nargs="+", metavar="NAME", type=nonempty, help=suites)
    add(
        "--model",
        action="append",
        default=[],
        metavar="MODEL",
        help="a checkpoint, or the name of published weights; more than once with --suite",
    )
    add(
        "--baseline",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"interpolation baselines: {', '.join(baselines.BASELINES)}",
    )
    add_import_option(parser)
    add("--gpu", help="device number; without CUDA the CPU is used")
    add("--precision", choices=list(PRECISIONS), help="instead of the configuration's (fp32)")
    add("--raw-weights", action="store_true", help="not the average (ema) that a checkpoint holds")
    add("--self-ensemble", action="store_true", help="mean over eight flips and transposes")
    add(
        "--metrics",
        nargs="+",
        default=["psnr", "ssim"],
        metavar="NAME",
        help=f"any of {', '.join(METRICS)} (default: psnr ssim)",
    )
    add(
        "--save-images", metavar="DIR", type=nonempty_path, help="keep the predictions as PNG files"
    )
    add("--json", metavar="FILE", type=nonempty_path, help="every figure and how it was taken")
    config = parser.add_argument_group("with --config")
    config.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override values of the configuration by their dotted paths",
    )
    add = parser.add_argument_group("with --suite").add_argument
    add(
        "--predictions",
        nargs="+",
        action="extend",
        metavar="NAME=DIR",
        help="pictures that another program made, in DIR/SUITE/xS; scored like a model's",
    )
    add("--scales", nargs="+", metavar="S", help="instead of the paper's; 2.5 and 2x3.5 too")
    add(
        "--lr",
        choices=["paper", *LR_SOURCES],
        help="low-resolution pictures: supplied, made by MATLAB's or PIL's bicubic, or as in "
        "the paper (default): supplied at x2 x3 x4, PIL beyond",
    )
    add(
        "--strips",
        metavar="N",
        type=int,
        help="ask SRNO for N rows at once, each strip with a mean of its own (default: all rows)",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="how figures are taken: as in LIIF's paper (default), or in CiaoSR's",
    )
    add(
        "--degrade",
        metavar="FILE",
        type=nonempty_path,
        help="a YAML list of steps that damage the low-resolution pictures: blur, noise, JPEG",
    )
    add(
        "--data-root",
        metavar="DIR",
        type=nonempty_path,
        help="where the data are (default: ./load)",
    )
    add("--markdown", metavar="FILE", type=nonempty_path, help="write the tables there")
    add("--panels", metavar="DIR", type=nonempty_path, help="comparisons and charts as PNG files")
    add("--eval-bsize", metavar="N", type=int, help="the most queries at once")
    add(
        "--cell-max-scale",
        metavar="S",
        type=float,
        help="tell models of no smaller cell than that of xS (LTE, SRNO and LM-LIIF: 4)",
    )
    return parser.parse_args(arguments)


def check_arguments(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together, before anything is loaded."""
    if (options.config is None) == (options.suite is None):
        raise ConfigError("give --config FILE or --suite NAME ..., one of the two")
    for name in options.baseline:
        baselines.check_baseline(name)
    check_metrics(options.metrics)
    import_all(options.imports)
    if not (options.model or options.baseline or options.predictions):
        raise ConfigError("give --model MODEL, --baseline NAME, or --predictions NAME=DIR")
    if options.config is not None:
        if len(options.model) + len(options.baseline) > 1:
            raise ConfigError("--config takes one --model or one --baseline; --suite takes several")
        for name in SUITE_OPTIONS:
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} goes with --suite")
    elif options.set:
        raise ConfigError("--set goes with --config")
    if options.self_ensemble and not options.model:
        raise ConfigError("--self-ensemble goes with --model")
    check_results(options)


def check_results(options: argparse.Namespace) -> None:
    """Refuse results that would replace each other, or what they are made by, or can't be kept."""
    if options.json and options.suite and not options.markdown:
        options.markdown = options.json.with_suffix(".md")
    taken = {"--config": options.config, "--degrade": options.degrade}
    for option in ("--json", "--markdown"):
        path = getattr(options, option[2:])
        if path is None:
            continue
        for other, file in taken.items():
            if file is not None and os.path.realpath(file) == os.path.realpath(path):
                raise ConfigError(f"{option}: {path} is the file of {other}; allowed: another")
        taken[option] = path
        check_writable(path)


def tell_other_norm(model: Any, name: str, norm: DataNorm) -> None:
    """Say in one line that a model was trained with another normalisation than is used here."""
    if model.data_norm is not None and not same_norm(model.data_norm, norm):
        used, own = dataclasses.asdict(norm), dataclasses.asdict(model.data_norm)
        say(f"data_norm: {used} is used, of the configuration; {name} was trained with {own}")


def test_configuration(options: argparse.Namespace) -> None:
    """`--config`: ends with the line `result: 37.9877`."""
    config = read_test_config(options.config, options.set)
    if options.save_images:
        make_folder(options.save_images)
    processes, device = distributed.start(options.gpu)
    precision = settle_precision(device, options.precision or config.precision)
    config = dataclasses.replace(config, precision=cast(Precision, precision))
    method: Any = options.baseline[0] if options.baseline else None
    label = baselines.label(method) if method else options.model[0]
    if method is None:
        method = load_model(options.model[0], device, options.raw_weights)
        if processes.is_main:
            tell_other_norm(method, label, config.data_norm)

    evaluation, names = run_test(
        config,
        method,
        device,
        processes,
        metrics=options.metrics,
        self_ensemble=options.self_ensemble,
        progress=sys.stderr.isatty(),
        save_images=options.save_images,
    )
    if not processes.is_main:
        return
    for image in evaluation.images:
        figures = "  ".join(
            f"{name} {'-' if value is None else format(value, '.4f')}"
            for name, value in image.values.items()
        )
        print(f"{names[image.index]}  {image.size[0]}x{image.size[1]}  {figures}")
    how = protocol(config)
    other = "" if config.protocol == "paper" else f", protocol {config.protocol}"
    taken = f"PSNR of {how['colour']}, border {how['border']} cut, LR {how['lr_source']}{other}"
    print(f"{label}: {taken}")
    for metric in options.metrics:
        mean = evaluation.mean(metric)
        if metric != "psnr" and mean is not None:
            print(f"{metric}: {mean:.4f}")
    print(f"result: {evaluation.psnr:.4f}", flush=True)
    if options.json:
        about = {"method": label, "config": config_dict(config), "device": str(device)}
        write_json(options.json, document(evaluation, names, config, about))


def main() -> int:
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(143))
    options = parse_arguments()
    check_arguments(options)
    goes_on = "goes on from here" if options.suite else "measures again"
    try:
        with distributed.lost_peers(f"the same command {goes_on}"), no_silent_exit():
            if options.config is not None:
                test_configuration(options)
            else:
                run_and_report(options)
    except KeyboardInterrupt:
        say("interrupted; with --suite the same command goes on from here")
        return 130
    distributed.stop()
    return 0


if __name__ == "__main__":
    run_script(main)
