"""Measure this project against its peers, on this machine.

examples:
  python tools/benchmark.py accuracy configs/bccd.yaml data.root=/data/bccd
  python tools/benchmark.py accuracy configs/bccd.yaml --seeds 1 --contenders "torchvision fcos"

Run nothing else meanwhile: seconds are what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vision_mtl.errors import run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    accuracy = parts.add_parser(
        "accuracy",
        help="AP against seconds: torchvision's detectors and our dense heads, trained for the same time",
    )
    accuracy.add_argument("config", help="YAML file with an fcos head")
    accuracy.add_argument("overrides", nargs="*", metavar="key=value", help="replace a node of the config")
    accuracy.add_argument("--minutes", type=float, default=6.0, help="training time of each run (default: 6)")
    accuracy.add_argument(
        "--search-seconds",
        type=float,
        default=60.0,
        help="training time of each short run that chooses learning rate and precision (default: 60)",
    )
    accuracy.add_argument(
        "--seeds", type=int, default=3, help="for the best of ours and the best peer; others have one"
    )
    accuracy.add_argument("--evaluations", type=int, default=6, help="per run, evenly spaced (default: 6)")
    accuracy.add_argument("--contenders", help="names, separated by commas (default: all)")
    accuracy.add_argument(
        "--results",
        type=Path,
        metavar="JSON",
        help="finished runs, which are not run again (default: configs/results/accuracy_<config>.json)",
    )
    accuracy.add_argument("--plot", type=Path, metavar="PNG", help="also draw AP against seconds")
    arguments = parser.parse_args()
    if arguments.results is None:
        stem = Path(arguments.config).stem
        results = Path(__file__).resolve().parents[1] / "configs" / "results"
        arguments.results = results / f"accuracy_{stem}.json"
    return arguments


def main() -> None:
    arguments = parse_arguments()
    from vision_mtl.benchmark.command import compare_accuracy

    compare_accuracy(
        config_path=arguments.config,
        overrides=arguments.overrides,
        results=arguments.results,
        plot=arguments.plot,
        names=[name.strip() for name in (arguments.contenders or "").split(",") if name.strip()],
        budget=arguments.minutes * 60,
        search=arguments.search_seconds,
        seeds=arguments.seeds,
        evaluations=arguments.evaluations,
        command=shlex.join(["python", *sys.argv]),
    )


if __name__ == "__main__":
    run_command(main)
