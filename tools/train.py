"""Train a network on COCO-format data.

With --data nothing has to be written by hand: the files are found, heads and settings chosen by simple
rules. The config is written to the run folder as <DIR's name>.yaml, with the reason of every choice, to be
edited and used as CONFIG. A data set without a split of its own gets one, in the run folder.

examples:
  python tools/train.py                                   the embedded data set
  python tools/train.py --data data/bccd --labels labels.csv:wbc_subtype
  python tools/train.py --data data/parts --labels attribute:verdict --labels wear.csv:wear training.epochs=50
  python tools/train.py configs/bccd.yaml data.root=/data/bccd
  python tools/train.py configs/shapes.yaml training.lr=0.0005 heads.objects.depth=4 --output runs/deeper
  python tools/train.py --output runs/deeper --resume
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
        "--output", type=Path, metavar="DIR", help="run folder (default: runs/<config or data>-<number>)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="with --resume: go on although config or data are no longer the checkpoint's",
    )
    add_data_options(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.config is None or "=" in arguments.config:
        arguments.overrides = [*([arguments.config] if arguments.config else []), *arguments.overrides]
        arguments.config = None
    if arguments.resume and arguments.output is None:
        parser.error("--resume needs --output, the folder of the run")
    if arguments.data is None and (arguments.annotations or arguments.images or arguments.labels):
        parser.error("--annotations, --images and --labels go with --data DIR")
    if arguments.data is not None and arguments.resume:
        parser.error("--resume goes on with the config in --output: leave --data out")
    if arguments.data is not None and arguments.config is not None:
        parser.error(f"--data makes a config of its own: leave '{arguments.config}' or --data out")
    if arguments.config is None and arguments.data is None:
        arguments.config = str(arguments.output / "config.yaml" if arguments.resume else DEFAULT_CONFIG)
    return arguments


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands for a config."""
    group = parser.add_argument_group("without a config")
    group.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of a data set: COCO JSON files and images"
    )
    group.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="FILE[:column]",
        help="a label of the whole image, which becomes a head: the column of a csv file with a file_name "
        "column, here or in DIR; or attribute:FIELD for images[].attributes.FIELD of the JSON; repeatable",
    )
    group.add_argument(
        "--annotations",
        action="append",
        default=[],
        type=Path,
        metavar="F",
        help="COCO JSON to use, once per split (default: those found in DIR)",
    )
    group.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images (default: found by the file names)"
    )


def main() -> None:
    arguments = parse_arguments()
    if arguments.data is not None:
        from vision_mtl.commands.quick_start import train_from_folder

        train_from_folder(
            arguments.data,
            arguments.annotations,
            arguments.images,
            arguments.labels,
            arguments.overrides,
            arguments.output,
        )
        return
    from vision_mtl.commands.train import train_from_config

    train_from_config(
        arguments.config, arguments.overrides, arguments.output, arguments.resume, arguments.accept_changes
    )


if __name__ == "__main__":
    run_command(main)
