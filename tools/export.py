"""Write a trained network in a format for others.

safetensors holds weights and text and no code: who receives it can load it without trusting you. It is taken
wherever a checkpoint is (tools/evaluate.py, tools/infer.py, `weights:` of a config), but training cannot be
resumed from it. The config in it names the files of your data set.

examples:
  python tools/export.py runs/shapes-1/checkpoints/best.pt --format safetensors --output shapes.safetensors
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
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    parser.add_argument(
        "--format", choices=["safetensors"], default="safetensors", help="default: safetensors"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="F", help="the file to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    from vision_mtl.commands.export import export_safetensors

    export_safetensors(arguments.checkpoint, arguments.output)


if __name__ == "__main__":
    run_command(main)
