"""A file of torchvision's, loaded as a user loads it, answers as torchvision's own model does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d, box_iou

from tests.heads.torchvision_weights import (
    as_batch,
    assert_same_detections,
    enliven_dense,
    enliven_two_stage,
    random_images,
    skip_resize,
    with_area,
)
from tests.models.torchvision_files import EXAMPLES, SLOTS, example, saved, started
from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.window import resize_image, target_size
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.structures import Batch, Detections, ImageMeta

PHOTOGRAPHS = Path(__file__).parents[3] / "shared/data/coco_mini/val2017"
FIRST_GENERATION = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")


def builder_model(builder: str) -> Any:
    """Return torchvision's detector of 91 slots as it is when it has its published weights, but random.

    Those of the first generation have frozen norms with an eps of 0. Some of their channels get a variance
    that an eps of 1e-5 would swamp, as published ones have.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    first = builder in FIRST_GENERATION
    with pytest.MonkeyPatch.context() as patch:
        if first:  # the builder itself freezes norms only for weights that it downloads
            modules = {"retinanet": detection.retinanet, "fasterrcnn": detection.faster_rcnn}
            module = modules[builder.split("_")[0]]
            patch.setattr(module, "resnet50", partial(_frozen, module.resnet50))
        model = getattr(detection, builder)(weights=None, weights_backbone=None).eval()
    skip_resize(model)
    (enliven_two_stage if builder.startswith("fasterrcnn") else enliven_dense)(model, generator)
    if first:
        overwrite_eps(model, 0.0)
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.running_var[::4] *= 1e-5
                module.weight[::4] *= 1e-5**0.5
    return model


def _frozen(build: Any, norm_layer: Any, **options: Any) -> nn.Module:
    return build(norm_layer=FrozenBatchNorm2d, **options)


def loaded(builder: str, folder: Path, theirs: nn.Module) -> MultiTaskModel:
    """Return our network of the builder's config, started from a file of the model's state."""
    first = 1 if builder.startswith("fasterrcnn") else 0
    labels = LabelInfo(tuple(SLOTS[first:]), tuple(range(first, len(SLOTS))))
    path = saved(folder / "model.pth", theirs.state_dict())
    model, report = started(example(builder, path), labels)
    path.unlink()  # 170 MB
    assert report.whole_heads() == ["objects"]
    return model.eval()


@torch.no_grad()
def answers(model: MultiTaskModel, batch: Batch) -> list[Detections]:
    features, outputs = model(batch.images, batch.sizes)
    return list(model.predict(model.decode(features, outputs), batch.metas)["objects"])


@pytest.mark.parametrize("builder", EXAMPLES)
def test_a_loaded_file_answers_as_torchvisions_model(tmp_path: Path, builder: str) -> None:
    theirs = builder_model(builder)
    model = loaded(builder, tmp_path, theirs)
    images = random_images([(192, 256), (160, 224)], torch.Generator().manual_seed(3))
    two_stage = builder.startswith("fasterrcnn")
    limits = theirs.roi_heads if two_stage else theirs
    limit = limits.detections_per_img
    assert limit == model.heads["objects"].config.max_detections
    limits.detections_per_img = 100_000
    with torch.no_grad():
        expected = [with_area(answer, limit) for answer in theirs([image / 255 for image in images])]
    for ours, answer in zip(answers(model, as_batch(images)), expected, strict=True):
        assert len(answer["scores"]) >= 50
        assert_same_detections(ours, answer, int(two_stage))


def test_an_eps_that_is_not_0_gives_other_answers(tmp_path: Path) -> None:
    """Else the comparison above would not see what `trunk.norm_eps` is for."""
    theirs = builder_model("retinanet_resnet50_fpn")
    images = random_images([(96, 128)], torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = theirs([image / 255 for image in images])[0]
        overwrite_eps(theirs, 1e-5)
        after = theirs([image / 255 for image in images])[0]
    assert len(before["scores"]) >= 50
    alike = min(len(before["scores"]), len(after["scores"]))
    assert (before["scores"][:alike] - after["scores"][:alike]).abs().max() > 0.01


def share_found(ours: Detections, theirs: dict[str, Tensor], offset: int) -> float:
    """Return the share of torchvision's detections that ours has: same class, IoU from 0.9, score within
    0.05."""
    alike = box_iou(theirs["boxes"], ours.boxes) >= 0.9
    alike &= theirs["labels"][:, None] == ours.classes + offset
    alike &= (theirs["scores"][:, None] - ours.scores).abs() <= 0.05
    return float(alike.any(1).float().mean())


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="../shared/data/coco_mini is not here")
def test_our_resize_of_uint8_keeps_most_detections(
    tmp_path: Path, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchvision resizes floating-point pixels; ours are rounded, and averaged over when shrinking."""
    builder, resize = "fcos_resnet50_fpn", ResizeConfig(shorter=480, longer=800)
    theirs = builder_model(builder)
    model = loaded(builder, tmp_path, theirs)
    del theirs.transform.resize  # what skip_resize put there: torchvision resizes again
    theirs.transform.min_size, theirs.transform.max_size = (resize.shorter,), resize.longer
    shares = []
    for path in sorted(PHOTOGRAPHS.glob("*.jpg"))[:4]:
        image = cv2.imread(str(path))[..., ::-1].copy()
        height, width = image.shape[:2]
        small = resize_image(image, target_size(height, width, resize))
        batch = as_batch([torch.from_numpy(small).permute(2, 0, 1)])
        scale = (width / small.shape[1], height / small.shape[0])
        batch.metas[0] = ImageMeta(0, str(path), (height, width), scale)
        with torch.no_grad():
            (expected,) = theirs([torch.from_numpy(image).permute(2, 0, 1) / 255])
        (ours,) = answers(model, batch)
        assert len(expected["scores"]) >= 50
        shares.append(share_found(ours, expected, 0))
    mean = sum(shares) / len(shares)
    record_property("share of torchvision's detections after our resize", mean)
    with capsys.disabled():
        print(f"\nenlarging to 480: {mean:.1%} of torchvision's detections through our uint8 resize", end=" ")
    assert mean >= 0.5
