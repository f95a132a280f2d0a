"""What is in a data set, as tables: sizes, boxes, classes, attributes, and every problem found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.images import ImageCheck
from vision_mtl.errors import DataError

SMALL, MEDIUM = 32**2, 96**2  # COCO's limits of the area of small and medium objects, in pixels
SHOWN_CLASSES = 100
SHOWN_VALUES = 20
SHOWN_BAD = 10


def dataset_tables(index: AnnotationIndex, check: ImageCheck) -> list[Table]:
    """Return the whole report: images, boxes, classes, attributes, problems; empty parts are left out."""
    tables = [images_table(index), boxes_table(index), classes_table(index)]
    tables += [attribute_table(index, field) for field in index.attribute_fields]
    return [*tables, problems_table(index, check)]


def images_table(index: AnnotationIndex) -> Table:
    """Return how many images there are and how large they are."""
    table = _facts("images: least / median / most")
    counts = np.diff(index.offsets)
    table.add_row("images", str(len(index)))
    table.add_row("without annotations", _share((counts == 0).sum(), len(index)))
    if not len(index):
        return table
    height, width = index.sizes.T
    table.add_row("width", _spread(width))
    table.add_row("height", _spread(height))
    shapes = {"landscape": width > height, "portrait": height > width, "square": height == width}
    for name, where in shapes.items():
        table.add_row(name, _share(where.sum(), len(index)))
    return table


def boxes_table(index: AnnotationIndex) -> Table:
    """Return how many boxes there are, how many per image, and how large; sizes are those of the file."""
    table = _facts("boxes: least / median / most")
    total = len(index.xywh)
    table.add_row("boxes", str(total))
    if not total:
        return table
    table.add_row("boxes per image", _spread(np.diff(index.offsets)))
    table.add_row("crowds", _share(index.crowd.sum(), total))
    table.add_row("not usable for training", _share((~index.usable).sum(), total))
    table.add_row("width", _spread(index.xywh[:, 2]))
    table.add_row("height", _spread(index.xywh[:, 3]))
    areas = index.areas
    table.add_row("small, area below 32 x 32", _share((areas < SMALL).sum(), total))
    table.add_row("medium, to 96 x 96", _share(((areas >= SMALL) & (areas <= MEDIUM)).sum(), total))
    table.add_row("large", _share((areas > MEDIUM).sum(), total))
    return table


def classes_table(index: AnnotationIndex) -> Table:
    """Return one row per category, most boxes first."""
    table = _table(f"{len(index.categories)} classes")
    table.add_column("class")
    for name in ("id", "boxes", "share", "images", "crowds"):
        table.add_column(name, justify="right")
    rows = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    size = len(index.categories)
    boxes = np.bincount(index.classes, minlength=size)
    crowds = np.bincount(index.classes[index.crowd], minlength=size)
    pairs = np.unique(rows * size + index.classes) % size if size else np.zeros(0, np.int64)
    images = np.bincount(pairs, minlength=size)
    order = np.argsort(-boxes, kind="stable")
    for i in order[:SHOWN_CLASSES].tolist():
        category = index.categories[i]
        share = f"{boxes[i] / max(1, boxes.sum()):.1%}"
        numbers = (str(value[i]) for value in (images, crowds))
        table.add_row(Text(category.name), str(category.id), str(boxes[i]), share, *numbers)
    if size > SHOWN_CLASSES:
        table.add_row(f"... and {size - SHOWN_CLASSES} more")
    return table


def attribute_table(index: AnnotationIndex, field: str) -> Table:
    """Return the values of `images[].attributes.<field>` with their numbers, most frequent first.

    Many numbers are summed up; a list counts each of its values. Unknown are null, absent and empty values.
    """
    table = _table(f"attribute {field}")
    table.add_column("value")
    table.add_column("images", justify="right")
    try:
        values = index.attribute(field)
    except DataError as error:
        table.add_row(Text(f"no label: {error}"))
        return table
    known = [value for value in values if value is not None and value != ""]
    counts: Counter[str] = Counter()
    for value in known:
        counts.update([str(v) for v in value] if isinstance(value, list) else [str(value)])
    numbers = [v for v in known if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(known) and len(counts) > SHOWN_VALUES:
        table.add_row(_spread(np.array(numbers)), str(len(numbers)))
    else:
        for name, count in counts.most_common(SHOWN_VALUES):
            table.add_row(Text(name), str(count))
        if len(counts) > SHOWN_VALUES:
            rest = counts.most_common()[SHOWN_VALUES:]
            table.add_row(f"... and {len(rest)} more values", str(sum(count for _, count in rest)))
    table.add_row("unknown", str(len(values) - len(known)), style="italic")
    return table


def problems_table(index: AnnotationIndex, check: ImageCheck) -> Table:
    """Return what validation corrected or dropped, and the image files that cannot be used."""
    table = _table("problems")
    table.add_column("found in")
    table.add_column("what", ratio=1)
    for line in index.report.lines()[1:]:
        table.add_row("annotations", Text(line))
    reasons: Sequence[str] = list(check.bad.values())
    for reason in reasons[:SHOWN_BAD]:
        table.add_row("image", Text(reason))
    if len(reasons) > SHOWN_BAD:
        table.add_row("image", f"... and {len(reasons) - SHOWN_BAD} more of {check.total} images")
    if not table.row_count:
        table.add_row("nothing", "annotations and image files fit each other")
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        min_width=min(len(title), 80),
    )


def _facts(title: str) -> Table:
    table = _table(title)
    table.add_column("")
    table.add_column("", justify="right")
    table.show_header = False
    return table


def _spread(values: np.ndarray) -> str:
    """Return `least / median / most`, or one number where they are equal."""
    three = [f"{v:g}" for v in (values.min(), np.median(values).round(2), values.max())]
    return three[0] if len(set(three)) == 1 else " / ".join(three)


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})" if total else str(count)
