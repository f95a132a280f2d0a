"""Answer images: boxes, labels and numbers for every file, as JSON and CSV, and drawn.

Exit code 3 says that some image files could not be read; predictions.json lists them under "skipped".

examples:
  python tools/infer.py photo.jpg --checkpoint runs/shapes-1/checkpoints/best.pt --output answers --draw
  python tools/infer.py images/ more/ --recursive --checkpoint best.pt --output answers --threshold 0.5
  python tools/infer.py images/ --checkpoint best.pt --output answers --set data.resize.shorter=480
  python tools/infer.py images/ --checkpoint configs/torchvision_fcos.yaml --output answers --draw
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vision_mtl.errors import run_command


def score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number from 0 to 1")
    return value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="IMAGE_OR_FOLDER", help="image files, or folders of them"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="C",
        help="best.pt or last.pt of a run, or a config with COCO weights",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument(
        "--threshold",
        type=score,
        metavar="T",
        help="lowest score of a detection (default: those stored by evaluate.py --operating-points, or 0.3); "
        "0 gives all that the head's own threshold leaves",
    )
    parser.add_argument(
        "--no-operating-points",
        action="store_true",
        help="leave those stored with the checkpoint alone: 0.3 for detections, the head's own for labels",
    )
    parser.add_argument("--draw", action="store_true", help="also write drawings, into DIR/drawings")
    parser.add_argument("--recursive", action="store_true", help="also look into folders inside folders")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="let torch.compile make the network faster, a minute or more at the first images of each size",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="change the run's config; repeatable"
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    from vision_mtl.commands.infer import infer_with_checkpoint
    from vision_mtl.inference.thresholds import DEFAULT_THRESHOLD

    threshold = arguments.threshold
    if threshold is None and arguments.no_operating_points:
        threshold = DEFAULT_THRESHOLD
    skipped = infer_with_checkpoint(
        arguments.inputs,
        arguments.checkpoint,
        arguments.output,
        threshold,
        arguments.draw,
        arguments.recursive,
        arguments.set,
        arguments.compile,
    )
    return 3 if skipped else 0


if __name__ == "__main__":
    run_command(main)
