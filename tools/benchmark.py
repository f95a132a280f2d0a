"""Measure this project against its peers, on this machine.

examples:
  python tools/benchmark.py all                           every part but accuracy, with figures in a JSON
  python tools/benchmark.py train --profile --device cuda
  python tools/benchmark.py infer --quick                 tiny sizes: does it work?
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

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "index": "reading an annotation file of train2017's size: pycocotools and ours",
    "input": "JPEG files to an augmented batch: torchvision's reference transforms and ours",
    "train": "a training step of FCOS: torchvision's and ours",
    "infer": "images to detections: torchvision's FCOS and ours",
    "joint": "detection with two image-level heads: against detection alone, and two torchvision networks",
    "eval": "COCO's numbers of 500,000 detections: pycocotools and ours",
    "memory": "peak memory of training FCOS at 800x1333: torchvision's and ours",
    "start": "seconds to a help text, and to a first prediction",
    "all": "all of these, one after another",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name, text in PARTS.items():
        part = parts.add_parser(name, help=text, description=text)
        add_options(part)
        if name != "all":
            part.add_argument(
                "--set",
                dest="overrides",
                action="append",
                default=[],
                metavar="key=value",
                help="change one of its sizes, e.g. batch=2 or rounds=5; repeatable",
            )
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
    results = ROOT / "configs" / "results"
    if arguments.part == "accuracy" and arguments.results is None:
        arguments.results = results / f"accuracy_{Path(arguments.config).stem}.json"
    if arguments.part in PARTS and arguments.json is None:
        quick = ROOT / "runs" / "benchmark_quick.json"
        arguments.json = quick if arguments.quick else results / f"benchmark_{arguments.device}.json"
    return arguments


def add_options(part: argparse.ArgumentParser) -> None:
    """Add what all parts but accuracy understand."""
    part.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    part.add_argument(
        "--json",
        type=Path,
        metavar="F",
        help="where the figures go; of other parts that it holds they stay (default: "
        "configs/results/benchmark_<device>.json, with --quick runs/benchmark_quick.json)",
    )
    part.add_argument(
        "--profile",
        action="store_true",
        help="input, train and infer: also say where the time goes; traces lie beside F",
    )
    part.add_argument("--plot", type=Path, metavar="PNG", help="also draw all ratios that F holds")
    part.add_argument("--quick", action="store_true", help="tiny sizes: show that it works, measure nothing")
    part.add_argument(
        "--folder", type=Path, metavar="DIR", help="index: keep the 530 MB that it generates here"
    )


def main() -> None:
    arguments = parse_arguments()
    command = shlex.join(["python", *sys.argv])
    if arguments.part in PARTS:
        from vision_mtl.benchmark.parts_command import Request, benchmark

        benchmark(Request(**vars(arguments), command=command))
        return
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
        command=command,
    )


if __name__ == "__main__":
    run_command(main)
