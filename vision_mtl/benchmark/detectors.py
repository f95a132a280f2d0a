"""Our networks whose speed is measured, and the images that these and the peer read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.pictures import write_pictures
from vision_mtl.commands.train import TrainingData, build_run, open_data, seed_everything
from vision_mtl.config import Config, config_from_tree
from vision_mtl.data.dataset import Dataset, collate
from vision_mtl.models.compiling import compile_network
from vision_mtl.models.folding import for_inference
from vision_mtl.models.multitask import MultiTaskModel, build_model
from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import Batch
from vision_mtl.training.run import Run
from vision_mtl.training.step import optimizer_step

DEFAULT_HEAD: dict[str, Any] = {"type": "fcos"}
PEER_TOWERS: dict[str, Any] = {"type": "fcos", "depth": 4, "norm": "group", "bins": 0}
LEARNING_RATE = 1e-5  # random weights must not diverge; a step takes as long at any rate


@dataclass(frozen=True)
class Setting:
    """The trunk, and the images that all networks read.

    Attributes:
        folder: of the data set of `write_pictures`.
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch: images at once.
        trunk: which ResNet.
        channels: of the pyramid and the towers.
    """

    folder: Path
    height: int
    width: int
    batch: int
    trunk: str = "resnet50"
    channels: int = 256

    def write_images(self, objects: int) -> None:
        """Write a batch of pictures with `objects` boxes each into the folder."""
        write_pictures(self.folder, self.batch, self.height, self.width, objects, seed=0)


@dataclass(frozen=True)
class Opened:
    """A config of ours, its data, and a batch of all its images."""

    config: Config
    data: TrainingData
    batch: Batch


@dataclass(frozen=True)
class Ours(Opened):
    """One of our networks at its start, with all that it is trained by."""

    model: MultiTaskModel


def open_ours(
    setting: Setting, heads: dict[str, dict[str, Any]], device: torch.device, precision: str = "auto"
) -> Opened:
    """Return a config of ours, with the batch of images that all networks read.

    Args:
        setting: trunk and images.
        heads: as in YAML.
        device: where the network will be.
        precision: as in YAML.
    """
    source = [{"images": "images", "annotations": "annotations.json"}]
    shorter, longer = sorted((setting.height, setting.width))
    tree = {
        "data": {
            "root": str(setting.folder),
            "train": source,
            "val": source,
            "resize": {"shorter": shorter, "longer": longer},
            "augment": [],
            "batch_size": max(2, setting.batch),
            "eval_batch_size": setting.batch,
            "workers": 0,
        },
        "trunk": {"name": setting.trunk, "channels": setting.channels},
        "heads": heads,
        "training": {"precision": precision, "lr": LEARNING_RATE, "device": device.type},
    }
    config = config_from_tree(tree, "the benchmark")
    data = open_data(config)
    dataset = Dataset(data.train, config.data.resize)
    batch, _ = collate([dataset[i, 0, i] for i in range(setting.batch)])
    assert batch is not None, "the benchmark wrote these images itself"
    return Opened(config, data, batch)


def build_ours(
    setting: Setting, heads: dict[str, dict[str, Any]], device: torch.device, precision: str = "auto"
) -> Ours:
    """Return our network with random weights; the arguments are those of `open_ours`."""
    opened = open_ours(setting, heads, device, precision)
    seed_everything(0)
    model = build_model(opened.config.model(), opened.data.labels).to(device)
    return Ours(opened.config, opened.data, opened.batch, model)


def first_images(batch: Batch, count: int) -> Batch:
    """Return a batch of the first `count` images of another."""
    names = ("images", "sizes", "boxes", "classes", "ignore", "has_boxes")
    parts: dict[str, Any] = {name: getattr(batch, name)[:count] for name in names}
    labels = {name: target[:count] for name, target in batch.labels.items()}
    return replace(batch, **parts, labels=labels, metas=batch.metas[:count])


def our_run(ours: Ours, device: torch.device) -> Run:
    """Return a training run of our network at its start; its folder is not written."""
    run = build_run(ours.config, ours.data, ours.model, device, Path())
    run.model.train()
    return run


def our_step(ours: Ours, device: torch.device) -> Callable[[int], object]:
    """Return a call that takes one optimiser step, all that training does in it: clipping and average too."""
    run = our_run(ours, device)
    return lambda _: optimizer_step(run, [ours.batch])


def inference_model(model: MultiTaskModel, dtype: torch.dtype, compiled: bool = False) -> MultiTaskModel:
    """Return our network ready to answer, as `tools/infer.py` makes it.

    Args:
        model: as trained.
        dtype: what it runs in.
        compiled: also by torch.compile, as with `--compile`.
    """
    ready = for_inference(model.eval(), dtype)
    if compiled:
        compile_network(ready, frozen=True)
    return ready


def our_answer(
    model: MultiTaskModel, batch: Batch, device: torch.device, dtype: torch.dtype
) -> Callable[[int], object]:
    """Return a call that answers a batch of uint8 images: forward, decode, NMS, original pixels."""

    @torch.inference_mode()
    def answer(_: int) -> None:
        moved = batch.to(device)
        with mixed_precision(device, dtype):
            features, outputs = model(moved.images, moved.sizes)
        model.predict(model.decode(features, outputs), batch.metas)

    return answer


@torch.no_grad()
def settle(norms: nn.Module, call: Callable[[], object]) -> None:
    """Give batch norms the statistics of one call, in place of the 0 and 1 that they start with.

    Args:
        norms: the module that holds them, left in evaluation mode.
        call: runs it on a batch of at least 2 images.
    """
    layers = [module for module in norms.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    norms.train()
    for layer in layers:
        layer.momentum = 1.0
    call()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    norms.eval()


@torch.no_grad()
def set_candidates(
    layer: nn.Conv2d, logits: Tensor, quality: Tensor | None, threshold: float, wanted: int
) -> None:
    """Change the class layer so that `wanted` (point, class) pairs an image, in the mean, reach a score.

    Untrained networks find nothing, or everything. First each class's logits get mean 0 and deviation 1 over
    the points, so that candidates are of many classes and survive rounding; then all get one bias.

    Args:
        layer: the convolution to the K logits.
        logits: (B, P, K) that it gives now.
        quality: (B, P) logits by whose probability the class's is multiplied; None for none.
        threshold: of the score, the root of that product with `quality`, else the class's probability.
        wanted: candidates per image.
    """
    mean, deviation = logits.mean((0, 1)), logits.std((0, 1)).clamp(min=1e-6)
    spread = (logits - mean) / deviation
    if quality is None:
        needed = torch.full_like(logits[..., 0], threshold)
    else:
        needed = threshold**2 / quality.sigmoid()
    margin = spread - needed.clamp(max=1 - 1e-6).logit()[..., None]
    bias = -margin.flatten().topk(wanted * len(logits)).values[-1]
    layer.weight.div_(deviation[:, None, None, None])
    assert layer.bias is not None
    layer.bias.sub_(mean).div_(deviation).add_(bias)


@torch.no_grad()
def prepare_ours(ours: Ours, device: torch.device, wanted: int) -> None:
    """Give our untrained detector statistics and `wanted` candidates an image, those of its batch."""
    moved = ours.batch.to(device)
    model = ours.model

    def forward() -> Any:
        return model(moved.images, moved.sizes)

    settle(model, forward)
    head = model.named_heads()[HEAD]
    outputs = forward()[1][HEAD]
    layer = head.get_submodule("classification_head.cls_logits")
    threshold = ours.config.heads[HEAD].score_threshold  # type: ignore[union-attr]
    set_candidates(layer, outputs.logits, outputs.quality, threshold, wanted)  # type: ignore[arg-type]
