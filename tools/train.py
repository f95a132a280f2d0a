"""Train a network on COCO-format data.

examples:
  python tools/train.py                                   the embedded data set
  python tools/train.py configs/bccd.yaml data.root=/data/bccd
  python tools/train.py configs/shapes.yaml training.lr=0.0005 heads.objects.depth=4 --output runs/deeper
  python tools/train.py configs/shapes.yaml --output runs/deeper --resume
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vision_mtl.errors import run_command

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "shapes.yaml"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", nargs="?", help="YAML file (default: configs/shapes.yaml, on the embedded data set)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace a node of the config")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="run folder (default: runs/<config>-<number>)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="with --resume: go on although the config is no longer the checkpoint's",
    )
    arguments = parser.parse_intermixed_args()
    if arguments.config is None or "=" in arguments.config:
        arguments.overrides = [*([arguments.config] if arguments.config else []), *arguments.overrides]
        arguments.config = None
    if arguments.resume and arguments.output is None:
        parser.error("--resume needs --output, the folder of the run")
    if arguments.config is None:
        arguments.config = str(arguments.output / "config.yaml" if arguments.resume else DEFAULT_CONFIG)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    from vision_mtl.commands.train import train_from_config

    train_from_config(
        arguments.config, arguments.overrides, arguments.output, arguments.resume, arguments.accept_changes
    )


if __name__ == "__main__":
    run_command(main)
