"""The settings of a quick start, by simple rules from what the data and the machine are.

On a CPU they follow `configs/bccd.yaml`, `shapes.yaml` and `neu_det.yaml`, which train for some minutes on
two cores: about 10,000 images of 320 pixels are shown to a ResNet-18 with a pyramid of 128 channels. Those
for a GPU are the usual sizes, and have not been measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

STRIDE = 32  # the trunk's: images are padded to multiples of it
LONGER = {"CPU": 320, "GPU": 640}  # pixels of the longer side
SMALL = 8  # pixels: where a quarter of the boxes would be smaller, the input is twice as large
SHOWN = {"CPU": 10_000, "GPU": 60_000}  # training images that a run sees, repetitions counted
BATCH = {"CPU": 8, "GPU": 16}
STEPS = 16  # of an epoch at least, by smaller batches where images are few
EVALUATIONS = 9  # of a run, about
FROM_NOTHING = 10_000  # images from which on a ResNet-50 is trained from random weights


@dataclass(frozen=True)
class Facts:
    """What the rules rest on.

    Attributes:
        images: how many there are to train on.
        sizes: (I, 2) int64, their (height, width).
        box_sides: (N,) square root of each box's area, in shares of its image's longer side.
        gpu: whether there is one.
        epochs: what was asked for; None to choose.
        has_weights: whether ImageNet weights of a ResNet are on this machine, by its name.
    """

    images: int
    sizes: np.ndarray
    box_sides: np.ndarray
    gpu: bool
    has_weights: Callable[[str], bool]
    epochs: int | None = None


def choose_settings(facts: Facts) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the config's tree, without data sets and heads, and per `part.key` why it is so."""
    machine = "GPU" if facts.gpu else "CPU"
    notes: dict[str, str] = {}
    shorter, longer = input_size(facts)
    typical = np.median(np.sort(facts.sizes, axis=1), axis=0).astype(int).tolist()
    notes["data.resize"] = (
        f"images are typically {typical[1]} by {typical[0]} pixels; on a {machine} the longer side is at "
        f"most {LONGER[machine]}, or twice that where a quarter of the boxes would be under {SMALL} pixels"
    )
    batch = batch_size(facts.images, machine)
    notes["data.batch_size"] = (
        f"{BATCH[machine]} on a {machine}, fewer where an epoch has under {STEPS} steps"
    )
    notes["data.augment"] = "remove HorizontalFlip where left and right mean different things"
    trunk, factor, notes["trunk.name"] = choose_trunk(facts)
    epochs = facts.epochs or max(3, min(100, round(SHOWN[machine] / facts.images)))
    notes["training.epochs"] = (
        f"about {SHOWN[machine]:,} images are seen in all; more epochs give better answers"
    )
    steps = epochs * -(-facts.images // batch)
    notes["training.ema"] = f"average of the last few hundred of {steps:,} steps"
    notes["evaluation.every"] = f"epochs; about {EVALUATIONS} evaluations"
    tree = {
        "data": {
            "resize": {"shorter": shorter, "longer": longer},
            "batch_size": batch,
            "augment": [
                {"name": "ScaleJitter", "scale": [0.8, 1.25]},
                {"name": "HorizontalFlip", "p": 0.5},
                {"name": "ColorJitter", "p": 0.5, "brightness": 0.15, "contrast": 0.15, "saturation": 0.15,
                 "hue": 0.02},
            ],
        },
        "trunk": trunk,
        "training": {"epochs": epochs, "lr": 0.001, **factor, "ema": 0.995 if steps < 5000 else 0.998},
        "evaluation": {"every": max(1, epochs // EVALUATIONS)},
    }  # fmt: skip
    return tree, notes


def input_size(facts: Facts) -> tuple[int, int]:
    """Return the network-input size, (shorter, longer), multiples of the trunk's stride.

    It is never larger than the images are, but for the rounding.
    """
    limit = LONGER["GPU" if facts.gpu else "CPU"]
    if len(facts.box_sides) and np.quantile(facts.box_sides, 0.25) * limit < SMALL:
        limit *= 2
    sides = np.sort(facts.sizes, axis=1)
    longer = min(limit, float(np.median(sides[:, 1])))
    shorter = longer * float(np.median(sides[:, 0] / sides[:, 1]))
    up = [STRIDE * int(np.ceil(round(side, 3) / STRIDE)) for side in (shorter, longer)]
    return up[0], up[1]


def batch_size(images: int, machine: str) -> int:
    """Return the images per step: halved until an epoch has `STEPS` steps, and 2 at least, which batch norm
    needs."""
    batch = BATCH[machine]
    while batch > 2 and images < batch * STEPS:
        batch //= 2
    return batch


def choose_trunk(facts: Facts) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the trunk's settings, the training's that go with them, and why."""
    large = facts.gpu and (facts.has_weights("resnet50") or facts.images >= FROM_NOTHING)
    name, channels = ("resnet50", 256) if large else ("resnet18", 128)
    if facts.has_weights(name):
        trunk = {"name": name, "weights": "imagenet", "norm": "frozen", "channels": channels}
        return trunk, {"trunk_lr_factor": 0.1}, "ImageNet weights of it are on this machine"
    note = (
        "from random weights: none of ImageNet are on this machine. To fetch them: "
        "trunk.weights=imagenet trunk.norm=frozen training.trunk_lr_factor=0.1"
    )
    return {"name": name, "norm": "batch", "channels": channels}, {}, note
