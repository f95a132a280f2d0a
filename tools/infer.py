"""Answer images: boxes, labels and numbers for every file.

Every run writes DIR/predictions.jsonl, a line per image as soon as it is answered, and makes the other files
from it at its end. Exit code 3 says that some files could not be read; they have a "reason" there. After
Ctrl-C, SIGTERM or a kill the same command with --resume goes on, and no image is lost or doubled.

formats (--format, joined by commas; default: json,csv):
  json     predictions.json: all of it, images that could not be read under "skipped"
  jsonl    predictions.jsonl alone
  csv      predictions.csv: a row per detection and per image-level answer
  coco     detections.json in COCO's results format; the image ids are those of --ids, or else positions from
           1 on, which images.json explains
  yolo     labels/<image>.txt, a line per box: class x y w h, centre and size in fractions of the image (with
           --confidence the score too); classes.txt names the classes
  images   drawings/ (the same as --draw)
  crops    crops/<category>/: what is in each box
  video    video.mp4, drawn, of a video
  gallery  gallery.html: one page of up to 200 images and 10 MB, to filter by class and label

examples:
  python tools/infer.py photo.jpg --checkpoint runs/shapes-1/checkpoints/best.pt --output answers --draw
  python tools/infer.py images/ more/ --recursive --checkpoint best.pt --output answers --threshold 0.5
  python tools/infer.py 'data/**/*.jpg' --checkpoint best.pt --output answers --format csv,gallery
  python tools/infer.py --list names.txt --checkpoint best.pt --output answers --format jsonl --resume
  find data -name '*.png' | python tools/infer.py - --checkpoint best.pt --output answers
  python tools/infer.py clip.mp4 --checkpoint best.pt --output answers --format jsonl,video
  python tools/infer.py val/ --checkpoint best.pt --output answers --format coco --ids val.json --threshold 0
  python tools/infer.py images/ --checkpoint best.pt --output answers --set data.resize.shorter=480
  python tools/infer.py images/ --checkpoint configs/torchvision_fcos.yaml --output answers --draw
  python tools/infer.py photo.jpg --checkpoint best.pt --output answers --explain objects
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


def add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="image files, folders of them, quoted patterns like 'data/**/*.jpg', one video, or - for a list "
        "on stdin",
    )
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="F",
        help="a text file with an image file or folder on each line, as seen from here; repeatable",
    )
    parser.add_argument("--recursive", action="store_true", help="also look into folders inside folders")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument(
        "--format",
        action="append",
        metavar="F[,F...]",
        help="what to write beside predictions.jsonl (default: json,csv)",
    )
    parser.add_argument("--draw", action="store_true", help="also write drawings, into DIR/drawings")
    parser.add_argument(
        "--ids", metavar="F", help="a COCO JSON whose image ids --format coco takes, by file name"
    )
    parser.add_argument("--confidence", action="store_true", help="write scores into yolo texts too")
    parser.add_argument(
        "--explain",
        metavar="HEAD",
        help="also write what in each image speaks for this head's answers, into DIR/explain/HEAD",
    )
    parser.add_argument(
        "--explain-class", metavar="NAME", help="explain this class, whatever the answer (with --explain)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in DIR; begin where there is none"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_inputs(parser)
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="C",
        help="best.pt or last.pt of a run, a .safetensors of export.py, or a config with COCO weights",
    )
    add_outputs(parser)
    parser.add_argument(
        "--threshold",
        type=score,
        metavar="T",
        help="lowest score of a detection (default: what evaluate.py --operating-points stored with the "
        "checkpoint for each class and label, or else 0.3); 0 gives all that the head's own threshold leaves",
    )
    parser.add_argument(
        "--no-operating-points",
        action="store_true",
        help="leave what is stored with the checkpoint alone: 0.3 for detections, the head's own for labels",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="let torch.compile make the network faster, a minute or more at the first images of each size",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="change the run's config; repeatable"
    )
    arguments = parser.parse_args()
    if not arguments.inputs and not arguments.list:
        parser.error("found no input, expected images, folders, patterns, a video, - or --list F")
    if arguments.explain_class and not arguments.explain:
        parser.error("--explain-class: expected --explain HEAD beside it")
    if arguments.explain and arguments.compile:
        parser.error("--explain: a compiled network cannot be explained; leave out --compile")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    from vision_mtl.commands.infer import infer_with_checkpoint
    from vision_mtl.commands.infer_outputs import DEFAULT_FORMATS
    from vision_mtl.inference.thresholds import DEFAULT_THRESHOLD

    given = [name.strip() for names in arguments.format or [] for name in names.split(",")]
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
        formats=given or DEFAULT_FORMATS,
        lists=arguments.list,
        resume=arguments.resume,
        ids=arguments.ids,
        confidence=arguments.confidence,
        explain=arguments.explain,
        explain_class=arguments.explain_class,
    )
    return 3 if skipped else 0


if __name__ == "__main__":
    run_command(main)
