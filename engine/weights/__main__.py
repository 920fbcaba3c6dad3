"""Look into checkpoints, make them smaller, average them.

python -m engine.weights verify FILE
python -m engine.weights strip FILE OUTPUT
python -m engine.weights average FILE FILE ... OUTPUT
"""

from __future__ import annotations

import sys

from engine.runtime import Parser, run_script
from engine.weights.checkpoint import averaged, save_checkpoint, stripped, summary


def main() -> int:
    parser = Parser(prog="python -m engine.weights")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="say whether a file is whole and what it holds")
    verify.add_argument("file", help="a checkpoint")
    strip = commands.add_parser("strip", help="keep the weights that predict, nothing else")
    strip.add_argument("file", help="a checkpoint")
    strip.add_argument("output", help="where the smaller one goes")
    average = commands.add_parser("average", help="the mean of several checkpoints' weights")
    average.add_argument("files", nargs="+", help="checkpoints of one model")
    average.add_argument("file", metavar="output", help="where the mean goes")
    options = parser.parse_args()
    if options.command == "strip":
        save_checkpoint(options.output, stripped(options.file))
        options.file = options.output
    if options.command == "average":
        save_checkpoint(options.file, averaged(options.files))
    for line in summary(options.file):
        print(line)
    print(f"{options.file}: whole")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
