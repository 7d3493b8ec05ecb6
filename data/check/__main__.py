"""Tell what is wrong with a data set, whatever train.py can read.

    python -m data.check --config configs/aitod/rs_tinynet_m.toml data.root=/data/aitod
    python -m data.check --config FILE [--splits train,test] [--fast] [--json FILE] [section.key=value ...]

Prints one page: each kind of finding with its count, the first culprits, what it does and the remedy; then classes, sizes and
numbers of the objects, beside those published where the classes are AI-TOD's or DIOR's. Every image is decoded once, in
parallel; --fast reads headers only. Exit code 0: nothing would hurt; 1: something stops training or testing, or hurts;
2: the arguments are wrong.
"""
import argparse
from pathlib import Path

# The one place where data/ knows engine: a command that takes --config needs what reads it. Nothing imports this file.
from engine import checking
from engine import config as configs
from errors import run


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="TOML file, such as configs/demo.toml")
    parser.add_argument("--splits", help="those to check, such as train,val (default: all that the configuration sets)")
    parser.add_argument("--fast", action="store_true", help="do not decode images: damage inside them goes unnoticed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same for a machine")
    parser.add_argument("--workers", type=int, help="processes that read images (default: one for each core)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the file")
    options = parser.parse_intermixed_args(arguments)

    config = configs.load(options.config, options.overrides)
    return checking.check(config, options.config, options.splits, options.fast, options.workers, options.json)


if __name__ == "__main__":
    run(main)
