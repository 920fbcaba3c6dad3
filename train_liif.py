"""Train a model as a configuration file says.

    python train_liif.py --config configs/train-div2k/train_edsr-baseline-liif.yaml --gpu 0

Runs are saved in save/. See `--help` for going on with a run that was interrupted.
"""

from __future__ import annotations

import liif.packages  # noqa: F401  (before all that may be missing)

# isort: split
import argparse
import sys
from pathlib import Path

from engine import distributed
from engine.config import read_train_config
from engine.imports import no_silent_exit
from engine.loader import per_process
from engine.runtime import Parser, nonempty, run_script, say
from engine.train.loop import train
from engine.train.run_folder import LAST, run_name
from engine.train.setup import Options, prepare
from engine.train.signals import Stopped, StopRequest
from utils import ConfigError


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="a training configuration")
    add("--name", type=nonempty, help="save in save/NAME instead of save/_CONFIG-NAME")
    add("--tag", type=nonempty, help="added to the folder's name")
    add("--gpu", metavar="N[,N...]", help="the GPU to train on; several: a process on each")
    change = "override the configuration's value at a dotted path"
    setting = add("--set", nargs="+", action="extend", metavar="KEY=VALUE", help=change)
    setting.dest, setting.default = "overrides", []
    add("--precision", metavar="NAME", help="instead of the configuration's: fp32, bf16 or fp16")
    weights = "start from weights, by file or name; all else fresh"
    add("--init", metavar="MODEL", type=nonempty, help=weights)
    start = "go on from the newest whole checkpoint, or a file"
    add("--resume", metavar="auto|FILE", type=nonempty, help=start)
    add("--resume-anyway", action="store_true", help="also where model, data or optimiser differ")
    add("--overwrite", action="store_true", help="start over, removing the folder's run")
    add("--profile", type=int, default=0, metavar="N", help="write a trace of N steps")
    options = parser.parse_args()
    if options.profile < 0:
        raise ConfigError(f"--profile: {options.profile} given; allowed: a number of steps")
    if options.overwrite and options.resume == "auto":
        raise ConfigError("--overwrite: given beside --resume auto; allowed: one of the two")
    if options.precision is not None:
        options.overrides.append(f"precision={options.precision}")
    if options.init is not None:
        options.overrides.append(f"init={options.init}")
    return options


def main() -> int:
    arguments = parse_arguments()
    try:
        config = read_train_config(arguments.config, arguments.overrides)
        path = Path("save") / run_name(arguments.config, arguments.name, arguments.tag)
        count = distributed.this_process().count
        per_process(config.train_dataset.batch_size, count, config.accumulate)
    except ConfigError as error:
        if not distributed.this_process().is_main:  # which reports it
            return error.exit_code
        raise
    if distributed.wants_launch(arguments.gpu):
        distributed.launch(arguments.gpu, __file__, sys.argv[1:])
    options = Options(
        resume=arguments.resume,
        resume_anyway=arguments.resume_anyway,
        overwrite=arguments.overwrite,
        profile=arguments.profile,
    )
    processes, device = distributed.start(arguments.gpu)
    stop = StopRequest()
    try:
        advice = "the last checkpoint is whole, go on from it with --resume auto"
        with distributed.lost_peers(advice), no_silent_exit():
            run = prepare(config, path, options, processes, device, stop)
            if run is not None:
                stop.listen()  # not before, since until now there is nothing to save
                train(run)
    except Stopped as stopped:
        if processes.is_main:
            say(f"{stopped}: saved {path / LAST}; go on with --resume auto")
        return stopped.exit_code
    distributed.stop()
    return 0


if __name__ == "__main__":
    run_script(main)
