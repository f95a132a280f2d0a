"""Train each head alone and all together with the same means, and table what that does to each.

examples:
  python tools/compare.py configs/shapes.yaml
  python tools/compare.py configs/bccd.yaml data.root=/data/bccd --methods fixed,uw,pcgrad
  python tools/compare.py configs/shapes.yaml training.epochs=3 --seeds 1 --lr-factors 1 --output runs/quick
  python tools/compare.py configs/bccd.yaml --combine --results configs/results/compare_bccd.json

A run that is finished is not repeated: the same command goes on where it was interrupted, and one with more
seeds or methods adds to what is there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vision_mtl.errors import run_command


def words(text: str) -> tuple[str, ...]:
    """Return the parts of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list with commas."""
    try:
        return tuple(float(part) for part in words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found '{text}', expected numbers such as 0.5,1,2") from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file with two heads or more")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace a node of the config")
    parser.add_argument("--seeds", type=int, default=3, help="full runs of every model (default: 3)")
    parser.add_argument(
        "--methods",
        type=words,
        default=(),
        help="ways of balancing the joint model, separated by commas (default: the config's)",
    )
    parser.add_argument(
        "--combine",
        action="store_true",
        help="also put the single-task models together, fine-tune them, and table that",
    )
    parser.add_argument(
        "--short-share",
        type=float,
        default=0.25,
        help="length of the runs that choose a learning rate, as a share of the config's (default: 0.25)",
    )
    parser.add_argument(
        "--lr-factors",
        type=numbers,
        default=(0.5, 1.0, 2.0),
        help="factors on the config's learning rate that are tried, for every model (default: 0.5,1,2); with "
        "one there are no short runs",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="all runs, plot and page (default: runs/compare-<config>)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="JSON",
        help="finished runs, which are not repeated (default: comparison.json in --output)",
    )
    arguments = parser.parse_intermixed_args()
    if arguments.output is None:
        arguments.output = Path("runs") / f"compare-{Path(arguments.config).stem}"
    return arguments


def main() -> None:
    arguments = parse_arguments()
    from vision_mtl.comparison.arena import Request
    from vision_mtl.comparison.command import compare

    compare(
        Request(
            config=arguments.config,
            overrides=tuple(arguments.overrides),
            seeds=arguments.seeds,
            methods=arguments.methods,
            combine=arguments.combine,
            short_share=arguments.short_share,
            factors=arguments.lr_factors,
            output=arguments.output,
            results=arguments.results,
            command=shlex.join(["python", *sys.argv]),
        )
    )


if __name__ == "__main__":
    run_command(main)
