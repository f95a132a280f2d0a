"""Invariances of evaluation: what says the same must give the same numbers, to the last bit.

python -m tests.stress.invariances [--images 40] [--only WORDS]

An untrained network is judged by a truth made of what it finds itself, moved a little: average precision is
neither 0 nor 1, and no number hides behind another. Controls, which do change what is asked, must change it.

Average precision, of each class and of all, and all that counts ranks are compared for equality. Room is left
in two places: where batches are other ones, scores and means of answers may be 1e-5 off; where categories
change places, the mean over them may differ in its last bit.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from tests.stress.evaluation_bench import Bench, Document, Numbers, build_bench
from tests.stress.invariant_files import CONTROLS, EXCHANGES, REORDERINGS, REWRITINGS, TEXTS, Rewrite
from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import workplace
from vision_mtl.data.annotations import read_annotations
from vision_mtl.metrics.detection import STAT_NAMES, evaluate_detections, results_array
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint

Check = Callable[[], list[str]]  # returns what is wrong

BATCH_SIZES = (1, 2, 3, 8)
SPLITS = ((1,), (3, 4), (1, 2, 3))  # after how many images, and again
CLOSE = 1e-5  # of scores, where batches are other ones: their sums are made in another order
PIXELS = 0.01
OTHER_BATCHES = {"count": 1e-5}  # its errors are means of answers, which are no ranks
LAST_BIT = {"objects": 1e-15}  # mAP, a mean over the classes in the order of their ids

SETTINGS: dict[str, tuple[str, ...]] = {
    "two loader processes": ("data.workers=2",),
    "four loader processes": ("data.workers=4",),
    "one batch ahead": ("data.workers=2", "data.prefetch=1"),
    "hotcoco": ("evaluation.backend=hotcoco",),
    "another seed": ("training.seed=7",),
    "no training data": ("data.train=[]",),
    "fewer pixels allowed": ("data.max_pixels=100000",),
}


def differences(found: Numbers, expected: Numbers, allowed: Mapping[str, float] = {}) -> list[str]:
    """Return the metrics that are not the same, in words.

    Args:
        found: of the changed file or setting.
        expected: of the file as it was.
        allowed: head -> how far its means may be off, where they are made in another order or of answers
            that are; the average precision of each class never.
    """
    wrong = []
    for head, metrics in expected.heads.items():
        for name, value in metrics.items():
            other = found.heads[head][name]
            near = None not in (value, other) and abs(value - other) <= allowed.get(head, 0.0)
            if other != value and not near:
                wrong.append(f"{head}.{name} {other} instead of {value}")
    rows, wanted = found.per_class["objects"], expected.per_class["objects"]
    if {row["name"]: row["ap"] for row in rows} != {row["name"]: row["ap"] for row in wanted}:
        wrong.append("AP of the classes")
    return wrong


def score_gap(found: Numbers, expected: Numbers) -> float:
    """Return how far scores are apart at most, of detections that should be the same but for rounding.

    Infinity where a detection has none of the same class within `PIXELS` on the other side.
    """
    if len(found.detections) != len(expected.detections):
        return inf
    places: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for detection in found.detections:
        places.setdefault((detection["image_id"], detection["category_id"]), []).append(detection)
    widest = 0.0
    for detection in expected.detections:
        near = [
            abs(other["score"] - detection["score"])
            for other in places.get((detection["image_id"], detection["category_id"]), [])
            if max(abs(a - b) for a, b in zip(other["bbox"], detection["bbox"], strict=True)) < PIXELS
        ]
        widest = max(widest, min(near, default=inf))
    return widest


def of_files(bench: Bench) -> dict[str, Check]:
    """Return the checks of files that say the same in other words."""

    def rewritten(rewrite: Rewrite, allowed: Mapping[str, float]) -> list[str]:
        document = bench.document()
        rewrite(document, random.Random(0))
        return differences(bench.evaluate(document), bench.expected, allowed)

    def written(write: Callable[[Document], bytes]) -> list[str]:
        return differences(bench.evaluate(text=write(bench.document())), bench.expected)

    kinds = ((REWRITINGS, {}), (EXCHANGES, LAST_BIT), (REORDERINGS, OTHER_BATCHES))
    checks: dict[str, Check] = {
        name: partial(rewritten, rewrite, allowed)
        for rewritings, allowed in kinds
        for name, rewrite in rewritings.items()
    }
    return {**checks, **{name: partial(written, write) for name, write in TEXTS.items()}}


def of_settings(bench: Bench, gaps: list[float]) -> dict[str, Check]:
    """Return the checks of settings, processes and files that must not matter.

    Args:
        bench: what is evaluated.
        gaps: gets the widest gap between scores of each batch size.
    """

    def same(evaluate: Callable[[], Numbers], in_detections: bool = False) -> list[str]:
        found = evaluate()
        other = in_detections and found.detections != bench.expected.detections
        return differences(found, bench.expected) + ["the detections"] * other

    def batches(size: int) -> list[str]:
        found = bench.evaluate(overrides=(f"data.eval_batch_size={size}",))
        gaps.append(score_gap(found, bench.expected))
        wrong = [f"a score is {gaps[-1]:.2g} off"] if gaps[-1] > CLOSE else []
        return wrong + differences(found, bench.expected, OTHER_BATCHES)

    def under(overrides: tuple[str, ...]) -> Numbers:
        return bench.evaluate(overrides=overrides)

    return {
        **{name: partial(same, partial(under, overrides), True) for name, overrides in SETTINGS.items()},
        "once more": partial(same, bench.evaluate, True),
        "without a cache": partial(same, partial(without_cache, bench)),
        "images in sub folders": partial(same, partial(in_sub_folders, bench)),
        "checkpoint written again": partial(same, partial(written_again, bench)),
        **{f"batches of {size}": partial(batches, size) for size in BATCH_SIZES},
        **{
            f"split after {' and '.join(map(str, parts))} images": partial(split, bench, parts)
            for parts in SPLITS
        },
    }


def of_controls(bench: Bench) -> dict[str, Check]:
    """Return the checks of files that say something else, which must be noticed."""

    def control(rewrite: Rewrite) -> list[str]:
        document = bench.document()
        rewrite(document, random.Random(0))
        return [] if differences(bench.evaluate(document), bench.expected) else ["not noticed"]

    return {name: partial(control, rewrite) for name, rewrite in CONTROLS.items()}


def without_cache(bench: Bench) -> Numbers:
    """Judge where nothing is cached."""
    with workplace():
        return bench.evaluate()


def in_sub_folders(bench: Bench) -> Numbers:
    """Judge with every image in a folder of its own."""
    document = bench.document()
    for entry in document["images"]:
        name = Path(entry["file_name"])
        moved = bench.root / "images" / f"folder of {name.stem}" / name.name
        moved.parent.mkdir(exist_ok=True)
        moved.write_bytes((bench.root / "images" / name).read_bytes())
        entry["file_name"] = moved.relative_to(bench.root / "images").as_posix()
    return bench.evaluate(document)


def written_again(bench: Bench) -> Numbers:
    """Judge a checkpoint that was loaded and written."""
    path = bench.root / "again.pt"
    save_checkpoint(load_checkpoint(bench.checkpoint), path)
    return bench.evaluate(checkpoint=path)


def split(bench: Bench, sizes: Sequence[int]) -> list[str]:
    """Judge parts of the images one after another; return what differs once their detections are joined."""
    whole = bench.document()
    joined: list[dict[str, Any]] = []
    for part in parts_of(whole, sizes):
        joined += bench.evaluate(part).detections
    bench.write(whole)
    index = read_annotations(bench.annotations, None)
    places = {category.id: place for place, category in enumerate(index.categories)}
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (found["bbox"] for found in joined)]
    rows = results_array(
        [found["image_id"] for found in joined],
        [np.array([box]) for box in boxes],
        [np.array([found["score"]]) for found in joined],
        [np.array([places[found["category_id"]]]) for found in joined],
    )
    stats = evaluate_detections(index, rows).stats
    expected = bench.expected.heads["objects"]
    return [
        f"{name} {stat} instead of {expected[name]}"
        for name, stat in zip(STAT_NAMES, stats, strict=True)
        if name in expected and stat != expected[name]
    ]


def parts_of(document: Document, sizes: Sequence[int]) -> list[Document]:
    """Return the document in parts of so many images, the last one with those that are left."""
    ends = [0, *(sum(sizes[: i + 1]) for i in range(len(sizes))), len(document["images"])]
    parts = []
    for start, end in pairwise(ends):
        ids = {image["id"] for image in document["images"][start:end]}
        parts.append(
            {
                **document,
                "images": document["images"][start:end],
                "annotations": [entry for entry in document["annotations"] if entry["image_id"] in ids],
            }
        )
    return parts


def check_invariances(images: int, only: str = "", file: Path | None = None) -> int:
    """Check all invariances on so many images; return the exit code of the command."""
    tally, gaps = Tally(file), [0.0]
    warnings.filterwarnings("ignore", message="This DataLoader will create 4 worker processes")
    with workplace() as place, contextlib.redirect_stdout(io.StringIO()):
        bench = build_bench(place, images)
        precision = bench.expected.heads["objects"]["mAP"]
        if precision is None or not 0.05 < precision < 0.95:
            tally.problems.append(f"mAP of {precision} tells nothing")
        checks = {**of_files(bench), **of_settings(bench, gaps)}
        checks = {name: check for name, check in checks.items() if only in name}
        controls = of_controls(bench)
        for number, (name, check) in enumerate({**checks, **controls}.items()):
            tally.progress(number, len(checks) + len(controls))
            wrong = check()
            kind = "real changes" if name in controls else "invariances"
            tally.add(f"{kind} {'missed' if wrong else 'met'}", f"{name}: {wrong}" if wrong else None)
    counts = tally.counts
    return tally.finish(
        f"{len(checks)} invariances of evaluation at mAP {json.dumps(precision)}: "
        f"{counts['invariances met']} hold, scores at most {max(gaps):.1e} apart between batch sizes; "
        f"{counts['real changes met']} of {len(controls)} real changes noticed, {len(tally.problems)} wrong",
        invariances=len(checks),
        mAP=precision,
        score_gap=str(max(gaps)),
    )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--images", type=int, default=40, help="default: 40")
    parser.add_argument(
        "--only", metavar="WORDS", default="", help="the controls, and those whose name holds these words"
    )
    arguments = parser.parse_args()
    return check_invariances(arguments.images, arguments.only, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
