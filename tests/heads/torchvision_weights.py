"""What it takes to compare a head with torchvision's own detector of the same weights.

A fresh torchvision detector answers every image with nothing, and its norms do nothing: a comparison would
say nothing. So the tests give the norms statistics, spread the outputs of the last layers until there are
detections of several classes, and assert that there are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from vision_mtl.structures import Batch, Detections, ImageMeta

Size = tuple[int, int]  # height, width


@torch.no_grad()
def randomise_norms(model: nn.Module, generator: torch.Generator) -> None:
    """Give every batch norm of `model` statistics, a scale and a shift that are not the identity.

    The scale is below 1 on average, so that activations do not grow through a ResNet's residual blocks.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            assert isinstance(module.running_mean, Tensor)
            assert isinstance(module.running_var, Tensor)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.6, generator=generator)
            module.weight.uniform_(0.4, 0.8, generator=generator)
            module.bias.normal_(0, 0.1, generator=generator)


def spread_outputs(layer: nn.Conv2d | nn.Linear, mean: float, std: float) -> None:
    """At its next call, and once, rescale `layer` so that each channel's outputs have this mean, and all
    together this standard deviation about it. One pass of the model on images sets all its last layers.

    A larger one lets more pass the threshold, but a random network answers all places nearly the same, and
    spreading the small differences spreads rounding errors with them.
    """

    @torch.no_grad()
    def rescale(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Any:
        channels = output.movedim(1, 0).flatten(1)
        factor = std / float(channels.std(1).mean())
        assert layer.bias is not None
        layer.weight.mul_(factor)
        layer.bias.sub_(channels.mean(1)).mul_(factor).add_(mean)
        handle.remove()
        return layer(*args)

    handle = layer.register_forward_hook(rescale)


@torch.no_grad()
def enliven_dense(model: Any, generator: torch.Generator) -> None:
    """Give a fresh FCOS or RetinaNet norms that do something, class logits that reach far above the
    thresholds, and boxes that differ from one another. It must read images at the size they have."""
    randomise_norms(model, generator)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.1, generator=generator)
    images, _ = model.transform([image / 255 for image in random_images([(128, 160)], generator)])
    pyramid = list(model.backbone(images.tensors).values())
    classes, boxes = model.head.classification_head, model.head.regression_head
    is_fcos = isinstance(model, detection.FCOS)
    spreads = [(classes.conv, classes.cls_logits, 1.5), (boxes.conv, boxes.bbox_reg, 1.0 if is_fcos else 0.3)]
    if is_fcos:
        boxes.bbox_reg.bias.fill_(2.0)  # most distances above 0, where the ReLU cuts them
        spreads.append((boxes.conv, boxes.bbox_ctrness, 1.0))
    for tower, layer, spread in spreads:
        layer.weight *= spread / torch.cat([layer(tower(level)).flatten() for level in pyramid]).std()


@torch.no_grad()
def enliven_two_stage(model: Any, generator: torch.Generator) -> None:
    """Do the same for a fresh Faster R-CNN: proposals and classes that differ from place to place."""
    randomise_norms(model, generator)
    rpn, predictor = model.rpn.head, model.roi_heads.box_predictor
    spread_outputs(rpn.cls_logits, 0.0, 1.0)
    spread_outputs(rpn.bbox_pred, 0.0, 0.05)
    spread_outputs(predictor.cls_score, 0.0, 2.0)
    spread_outputs(predictor.bbox_pred, 0.0, 0.5)
    model([image / 255 for image in random_images([(160, 192)], generator)])


def skip_resize(model: Any) -> None:
    """Make a torchvision detector read images at the size they have; it still normalises and pads them.

    Its own `_skip_resize` does so in training only.
    """
    model.transform.resize = lambda image, target=None: (image, target)


def trunk_state(model: Any) -> dict[str, Tensor]:
    """Return the state dict of a torchvision detector's backbone under the names of our `Trunk`."""
    return {
        key.removeprefix("backbone."): value
        for key, value in model.state_dict().items()
        if key.startswith("backbone.")
    }


def random_images(sizes: list[Size], generator: torch.Generator) -> list[Tensor]:
    """Return one (3, height, width) uint8 image per size: coarse random patches under noise."""
    images = []
    for height, width in sizes:
        coarse = torch.rand(1, 3, height // 16, width // 16, generator=generator) * 200
        smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
        noise = torch.rand(3, height, width, generator=generator) * 55
        images.append((smooth + noise).to(torch.uint8))
    return images


def as_batch(images: list[Tensor], boxes: list[Tensor] | None = None, classes: Any = None) -> Batch:
    """Return the images padded right and bottom to a common multiple of 32, as our loader does.

    Args:
        images: (3, height, width) uint8, of any sizes.
        boxes: (N_i, 4) per image; None for no boxes.
        classes: (N_i,) per image, contiguous from 0; None with `boxes` None.
    """
    count = len(images)
    boxes = boxes or [torch.zeros(0, 4)] * count
    classes = classes or [torch.zeros(0, dtype=torch.int64)] * count
    height, width = (-(-max(image.shape[side] for image in images) // 32) * 32 for side in (1, 2))
    slots = max(len(rows) for rows in boxes)
    padded = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    all_boxes, all_classes = torch.zeros(count, slots, 4), torch.full((count, slots), -1)
    for i, image in enumerate(images):
        padded[i, :, : image.shape[1], : image.shape[2]] = image
        all_boxes[i, : len(boxes[i])], all_classes[i, : len(classes[i])] = boxes[i], classes[i]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    return Batch(
        images=padded,
        sizes=torch.tensor(sizes),
        boxes=all_boxes,
        classes=all_classes,
        ignore=torch.zeros(count, slots, dtype=torch.bool),
        has_boxes=torch.ones(count, dtype=torch.bool),
        labels={},
        metas=[ImageMeta(i, f"{i}.png", size, (1.0, 1.0)) for i, size in enumerate(sizes)],
    )


def with_area(answer: dict[str, Tensor], limit: int) -> dict[str, Tensor]:
    """Return the first `limit` of torchvision's detections of an image that have an area.

    Clipping leaves boxes without area of those in the padding. They suppress none, but torchvision keeps
    them and counts them for its limit, which must therefore be lifted before; ours drops them.
    """
    has_area = (answer["boxes"][:, 2:] > answer["boxes"][:, :2]).all(1)
    return {name: part[has_area][:limit] for name, part in answer.items()}


def assert_same_detections(
    ours: Detections, theirs: dict[str, Tensor], label_offset: int, pixels: float = 0.01, score: float = 1e-4
) -> tuple[float, float]:
    """Assert equal boxes, scores, classes and order; detections whose scores tie may swap places.

    Args:
        ours: one image's detections.
        theirs: torchvision's answer for it: `boxes`, `scores`, `labels`.
        label_offset: torchvision's label of our class 0.
        pixels: by how much a coordinate may differ.
        score: by how much a score may differ.

    Returns:
        The largest difference of a coordinate and of a score.
    """
    assert len(ours.scores) == len(theirs["scores"])
    free = torch.ones(len(ours.scores), dtype=torch.bool)
    largest = [0.0, 0.0]
    for i, (box, value, label) in enumerate(zip(ours.boxes, ours.scores, ours.classes, strict=True)):
        place = theirs["scores"][i]
        tied = (theirs["scores"] - place).abs() <= 1e-5
        far = (theirs["boxes"] - box).abs().amax(1)
        same = free & tied & (theirs["labels"] == label + label_offset) & (far <= pixels)
        assert same.any(), f"detection {i}: {box.tolist()}, score {value:.6f} (theirs {place:.6f}), {label}"
        assert (value - place).abs() <= score, f"detection {i}: score {value}, theirs {place}"
        match = int(torch.where(same, far, torch.inf).argmin())
        free[match] = False
        largest = [max(largest[0], float(far[match])), max(largest[1], float((value - place).abs()))]
    return largest[0], largest[1]
