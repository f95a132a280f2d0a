"""Evaluate a checkpoint: one table with a row per head, mAP beside accuracy.

A config (.yaml) in place of the checkpoint evaluates its `weights` as they are, without training.
Writes metrics.json, detections.json in COCO's results format, and report.html with its figures in plots/
(evaluation.report=false leaves it out). The report shows changes against the evaluation that was in the
folder before, or against --baseline.

examples:
  python tools/evaluate.py runs/shapes-1/checkpoints/best.pt
  python tools/evaluate.py runs/bccd-1/checkpoints/best.pt --split test data.root=/data/bccd
  python tools/evaluate.py runs/coco-1/checkpoints/best.pt evaluation.backend=hotcoco --output coco-val
  python tools/evaluate.py runs/bccd-2/checkpoints/best.pt --baseline runs/bccd-1/evaluation-val/metrics.json
  python tools/evaluate.py runs/bccd-1/checkpoints/best.pt --per-class --operating-points precision=0.9
  python tools/evaluate.py configs/torchvision_fcos.yaml data.root=/data/coco
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vision_mtl.errors import run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        help="best.pt or last.pt of a run, a .safetensors of export.py, or a config with weights",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default: val")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write (default: <run>/evaluation-<split>; of no run: runs/evaluation-<name>-<split>)",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="METRICS",
        help="metrics.json that the report compares with (default: the one that is in the folder already)",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="print a row per class too, the best first, with its support"
    )
    parser.add_argument(
        "--operating-points",
        metavar="GOAL",
        help="find the score per class from which to believe it, and store it with the checkpoint, for "
        "infer.py: f1 for the best F1, precision=P or recall=R for at least that",
    )
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse_arguments()
    from vision_mtl.commands.evaluate import evaluate_checkpoint
    from vision_mtl.metrics.operating_point import parse_goal

    goal = parse_goal(arguments.operating_points) if arguments.operating_points else None
    evaluate_checkpoint(
        arguments.checkpoint,
        arguments.overrides,
        arguments.split,
        arguments.output,
        arguments.per_class,
        goal,
        arguments.baseline,
    )


if __name__ == "__main__":
    run_command(main)
