"""A network and a truth that it half meets, and its evaluation with anything about it changed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch

from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.train import open_data
from vision_mtl.config import config_from_tree, to_tree
from vision_mtl.models.multitask import build_model
from vision_mtl.training.checkpoint import save_checkpoint
from vision_mtl.training.run import Progress

Document = dict[str, Any]

CATEGORIES = {3: "bolt", 7: "écrou", 21: "washer"}
SIZES = ((64, 96), (96, 64), (64, 64), (72, 96))  # height, width: three padded sizes
SOURCE = {"images": "images", "annotations": "val.json"}
TREE = {
    "data": {
        "train": [SOURCE],
        "val": [SOURCE],
        "resize": {"shorter": 64, "longer": 96},
        "eval_batch_size": 4,
        "workers": 0,
    },
    "trunk": {"name": "resnet18", "channels": 32},
    "heads": {
        "objects": {"type": "fcos", "depth": 1, "norm": "group", "score_threshold": 0.02},
        "kind": {"type": "classification", "source": "attribute", "field": "kind"},
        "presence": {"type": "multilabel", "source": "boxes"},
        "count": {"type": "regression", "source": "count"},
    },
    "training": {"precision": "fp32"},
}


@dataclass(frozen=True)
class Numbers:
    """What an evaluation says.

    Attributes:
        heads: head -> metric -> number.
        per_class: head -> rows.
        detections: in COCO's results format.
    """

    heads: dict[str, dict[str, Any]]
    per_class: dict[str, list[dict[str, Any]]]
    detections: list[dict[str, Any]]


@dataclass
class Bench:
    """A checkpoint, its data set below `root`, and what its evaluation says (`expected`)."""

    root: Path
    checkpoint: Path
    content: bytes = b""
    expected: Numbers = field(default_factory=lambda: Numbers({}, {}, []))

    @property
    def annotations(self) -> Path:
        return self.root / "val.json"

    def document(self) -> Document:
        """Return the truth as a tree that may be changed."""
        return msgspec.json.decode(self.content)

    def write(self, document: Document) -> None:
        """Make a document the file that is evaluated."""
        self.annotations.write_bytes(msgspec.json.encode(document))

    def evaluate(
        self,
        document: Document | None = None,
        overrides: Sequence[str] = (),
        text: bytes | None = None,
        checkpoint: Path | None = None,
    ) -> Numbers:
        """Evaluate as `tools/evaluate.py` does.

        Args:
            document: in place of the truth.
            overrides: `key=value` changes to the config.
            text: in place of the truth, the file's very bytes.
            checkpoint: in place of the bench's own.
        """
        self.annotations.write_bytes(self.content if text is None else text)
        if document is not None:
            self.write(document)
        output = self.root / "evaluation"
        evaluate_checkpoint(str(checkpoint or self.checkpoint), overrides, "val", output, per_class=False)
        metrics = json.loads((output / "metrics.json").read_text())
        detections = json.loads((output / "detections.json").read_text())
        return Numbers(metrics["heads"], metrics["per_class"], detections)


def build_bench(folder: Path, images: int) -> Bench:
    """Draw a data set of `images`, make a network and a truth from what it finds, and evaluate it."""
    draw = random.Random(0)
    root = folder / "set"
    document = draw_images(root / "images", images)
    bench = Bench(root, root / "best.pt")
    document["annotations"] = [
        annotation(i + 1, image, draw.choice(list(CATEGORIES)), [4, 4, 20, 20])
        for i, image in enumerate(document["images"])
    ]
    bench.write(document)
    write_network(root, bench.checkpoint)
    document["annotations"] = []
    bench.content = msgspec.json.encode(document)
    document["annotations"] = half_met(document, bench.evaluate().detections, draw)
    bench.content = msgspec.json.encode(document)
    bench.expected = bench.evaluate()
    return bench


def draw_images(folder: Path, count: int) -> Document:
    """Write images of coloured blotches; return their document, yet without annotations."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = []
    for i in range(count):
        height, width = SIZES[i % len(SIZES)]
        blotches = rng.integers(0, 256, (4, 4, 3), np.uint8)
        pixels = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f"{i:03}.png"), pixels)
        entries.append(
            {
                "id": 10 + i,
                "file_name": f"{i:03}.png",
                "height": height,
                "width": width,
                "attributes": {"kind": "ab"[int(rng.integers(2))]},
            }
        )
    return {
        "images": entries,
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }


def annotation(
    number: int, image: dict[str, Any], category: int, box: list[float], crowd: bool = False
) -> dict[str, Any]:
    """Return an annotation entry; `box` is xywh."""
    area = box[2] * box[3]
    found = {"id": number, "image_id": image["id"], "category_id": category, "bbox": box}
    return {**found, "area": area, "iscrowd": int(crowd)}


def write_network(root: Path, path: Path) -> None:
    """Write an untrained network for the data in `root` whose scores and answers spread."""
    config = config_from_tree({**TREE, "data": {**TREE["data"], "root": str(root)}}, "the bench")  # type: ignore[dict-item]
    labels = open_data(config).labels
    torch.manual_seed(0)
    model = build_model(config.model(), labels)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(("cls_logits.weight", "logits.weight", "bbox_reg.weight")):
            tensor *= 20  # else all scores are the prior's
    save_checkpoint(
        {
            "config": to_tree(config),
            "labels": {name: msgspec.to_builtins(info) for name, info in labels.items()},
            "average": state,
            "progress": msgspec.to_builtins(Progress()),
        },
        path,
    )


def half_met(
    document: Document, detections: list[dict[str, Any]], draw: random.Random
) -> list[dict[str, Any]]:
    """Return annotations made of the better detections, moved by up to a tenth of their size.

    One image stays without any, and one box in ten is a crowd.
    """
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for found in sorted(detections, key=lambda found: -found["score"]):
        by_image[found["image_id"]].append(found)
    entries: list[dict[str, Any]] = []
    for image in document["images"][1:]:
        candidates = [found for found in by_image[image["id"]] if min(found["bbox"][2:]) > 4]
        for found in draw.sample(candidates[:8], min(5, len(candidates))):
            x, y, width, height = found["bbox"]
            x, y = x + draw.uniform(-1, 1) * width / 10, y + draw.uniform(-1, 1) * height / 10
            x, y = max(0.0, x), max(0.0, y)
            width, height = min(width, image["width"] - x), min(height, image["height"] - y)
            crowd = draw.random() < 0.1
            box = [round(value, 2) for value in (x, y, width, height)]
            if min(box[2:]) > 1:
                entries.append(annotation(len(entries) + 1, image, found["category_id"], box, crowd))
    return entries
