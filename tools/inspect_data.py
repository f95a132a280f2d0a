"""Show what is in a data set: sizes, boxes, classes, attributes, every problem; and draw training samples.

The drawings show what the network sees: after augmentation, at its input size, with the boxes and labels
that are left; with the categories and labels of all sources where the file is one of the config's training
sources. Problems of single images and boxes are listed; annotations that cannot be read are an error.

examples:
  python tools/inspect_data.py annotations/instances_train.json --images train2017
  python tools/inspect_data.py train.json --images images --draw 16
  python tools/inspect_data.py train.json --images images --draw 16 --config configs/bccd.yaml
  python tools/inspect_data.py train.json --images images --draw 9 data.augment='[{name: Rotate, p: 1}]'
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vision_mtl.errors import ConfigError, run_command

if TYPE_CHECKING:
    import numpy as np

    from vision_mtl.config import Config
    from vision_mtl.data.annotations import AnnotationIndex
    from vision_mtl.data.dataset import Sample, Source
    from vision_mtl.data.images import ImageCheck

BOXES_ONLY = "heads={objects: {type: fcos}}"  # without --config there is no label to show
CELL = 400  # pixels of a side of the contact sheet's cells


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", type=Path, help="COCO JSON file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace a node of the config")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its images")
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="draw N training samples")
    parser.add_argument(
        "--output", type=Path, default=Path("inspection"), metavar="DIR",
        help="folder of the drawings (default: inspection)",
    )  # fmt: skip
    parser.add_argument(
        "--config",
        metavar="YAML",
        help="its size, augmentation and heads (default: the default size and augmentation)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the drawings (default: 0)")
    arguments = parser.parse_intermixed_args()
    if arguments.draw < 0 or arguments.seed < 0:
        parser.error("--draw and --seed are 0 or more")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    from vision_mtl.config import load_config
    from vision_mtl.data.annotations import read_annotations
    from vision_mtl.data.cache import cache_folder
    from vision_mtl.data.images import check_images
    from vision_mtl.reporting.dataset_report import dataset_tables
    from vision_mtl.reporting.tables import text

    overrides = arguments.overrides if arguments.config else [BOXES_ONLY, *arguments.overrides]
    config = load_config(arguments.config, overrides)
    if not arguments.images.is_dir():
        raise ConfigError(f"--images: no folder '{arguments.images}'")
    index = read_annotations(arguments.annotations)
    check = check_images(
        arguments.images, index, cache_folder() / "images", config.data.max_pixels, config.data.follow_links
    )
    print(f"{index.path}, images in {arguments.images}", end="\n\n")
    for table in dataset_tables(index, check):
        print(text(table), end="\n\n")
    if arguments.draw:
        draw_samples(arguments, config, index, check)


def draw_samples(
    arguments: argparse.Namespace, config: Config, index: AnnotationIndex, check: ImageCheck
) -> None:
    """Write `sample-000.jpg`, ... and the contact sheet `samples.jpg` to the output folder.

    Raises:
        VisionMTLError: no usable image, labels that do not fit the heads, or a folder that cannot be written.
    """
    import numpy as np

    from vision_mtl.data.dataset import training_dataset
    from vision_mtl.data.images import BadImageError

    source = open_source(arguments, config, index, check)
    dataset = training_dataset(config.data, [source], arguments.seed, config.training.epochs)
    chosen = np.random.default_rng(arguments.seed).permutation(len(dataset))[: arguments.draw]
    drawn = []
    for place, i in enumerate(chosen.tolist()):
        sample = dataset[i, 0, place]
        if isinstance(sample, BadImageError):
            print(f"not drawn: {sample}")
            continue
        drawn.append(draw_sample(sample, source))
        write_image(arguments.output / f"sample-{place:03}.jpg", drawn[-1])
    if drawn:
        write_image(arguments.output / "samples.jpg", contact_sheet(drawn))
    print(f"{len(drawn)} drawings and samples.jpg are in {arguments.output}")


def open_source(
    arguments: argparse.Namespace, config: Config, index: AnnotationIndex, check: ImageCheck
) -> Source:
    """Return the file's usable images: as training has them where the file is one of the config's training
    sources, and as a data set by itself otherwise.

    Raises:
        VisionMTLError: no usable image, or labels that do not fit the heads.
    """
    import dataclasses

    import msgspec
    import numpy as np

    from vision_mtl.data.categories import map_classes
    from vision_mtl.data.dataset import Source
    from vision_mtl.data.images import FolderImages
    from vision_mtl.data.labels import read_labels
    from vision_mtl.data.sources import data_root, open_sources
    from vision_mtl.errors import DataError
    from vision_mtl.models.vocabulary import label_sources

    positions = np.setdiff1d(np.arange(len(index)), np.array(list(check.bad), np.int64))
    if not len(positions):
        raise DataError(f"{index.path}: no usable image to draw")
    data, heads = config.data, label_sources(config.heads)
    images = FolderImages(arguments.images, index.file_name, data.max_pixels, data.reduced_decoding)
    root = data_root(data)
    for i, entry in enumerate(data.train):
        if (root / entry.annotations).resolve() == arguments.annotations.resolve():
            lenient = msgspec.structs.replace(data, bad_images="skip")
            source = open_sources(lenient, "train", heads)[i]
            return dataclasses.replace(source, images=images, positions=positions)
    labels = {
        name: read_labels(name, label, index, root, None)
        for name, label in heads.items()
        if label is not None
    }
    return Source(index, images, labels, True, positions, map_classes(index.categories, index.categories))


def draw_sample(sample: Sample, source: Source) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB: the augmented image with its boxes, and its labels below."""
    from vision_mtl.inference.draw import draw_image

    objects, meta = sample.objects, sample.meta
    trained = [category.name for category in source.classes.categories]
    names = [trained[c] if c >= 0 else "not trained" for c in objects.classes.tolist()]
    texts = [
        f"crowd: {name}" if crowd else name for name, crowd in zip(names, objects.crowd.tolist(), strict=True)
    ]
    height, width = sample.image.shape[:2]
    caption = [f"{Path(meta.path).name}  {meta.size[1]}x{meta.size[0]} -> {width}x{height}"]
    caption += [
        f"{name}: {label_text(target, source.labels[name].vocabulary)}"
        for name, target in sample.labels.items()
    ]
    return draw_image(sample.image, objects.boxes, texts, objects.classes.tolist(), caption)


def label_text(target: Any, vocabulary: tuple[str, ...]) -> str:
    """Return one image's target in words; see `HeadLabels.targets` for what it can be."""
    import numpy as np

    values = np.asarray(target)
    if values.dtype == np.int64:
        return vocabulary[int(values)] if values >= 0 else "unknown"
    if np.isnan(values).all():
        return "unknown"
    if values.ndim:
        present = [name for name, value in zip(vocabulary, values, strict=True) if value == 1]
        unknown = [name for name, value in zip(vocabulary, values, strict=True) if np.isnan(value)]
        return (", ".join(present) or "none") + (f"; unknown: {', '.join(unknown)}" if unknown else "")
    return f"{float(values):g}"


def contact_sheet(drawings: list[np.ndarray]) -> np.ndarray:
    """Return all (H, W, 3) drawings in one, each shrunk into a square cell."""
    import cv2
    import numpy as np

    columns = int(np.ceil(np.sqrt(len(drawings))))
    rows = -(-len(drawings) // columns)
    sheet = np.full((rows * CELL, columns * CELL, 3), 255, np.uint8)
    for k, drawing in enumerate(drawings):
        factor = min((CELL - 8) / max(drawing.shape[:2]), 1.0)
        size = [max(1, round(side * factor)) for side in drawing.shape[1::-1]]
        small = cv2.resize(drawing, size, interpolation=cv2.INTER_AREA)
        top, left = k // columns * CELL + 4, k % columns * CELL + 4
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG; raise ConfigError where that cannot be."""
    import cv2

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
    except OSError as error:
        raise ConfigError(f"--output: cannot write '{path}': {error.strerror}") from error


if __name__ == "__main__":
    run_command(main)
