"""What image-level heads cost on top of detection, and what two networks in place of one would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.detectors import (
    DEFAULT_HEAD,
    Ours,
    Setting,
    build_ours,
    first_images,
    inference_model,
    open_ours,
    our_answer,
    our_step,
    prepare_ours,
)
from vision_mtl.benchmark.pictures import SCENES
from vision_mtl.benchmark.process import Apart, Call, apart
from vision_mtl.benchmark.results import Figure, Table, Target, figure
from vision_mtl.benchmark.torchvision_peer import (
    build_peer,
    peer_answer,
    peer_calls,
    peer_images,
    prepare_peer,
)
from vision_mtl.benchmark.variants import PEER, PeerVariant, measured_targets
from vision_mtl.commands.timing import measure_in_turn
from vision_mtl.commands.train import seed_everything
from vision_mtl.models.precision import mixed_precision, resolve_precision
from vision_mtl.models.trunk import MEAN, STD
from vision_mtl.structures import Batch

ALONE, JOINT = "ours, detection alone", "ours, detection and two image heads"
HEADS: dict[str, dict[str, dict[str, Any]]] = {
    ALONE: {HEAD: DEFAULT_HEAD},
    JOINT: {
        HEAD: DEFAULT_HEAD,
        "presence": {"type": "multilabel", "source": "boxes"},
        "scene": {"type": "classification", "source": "attribute", "field": "scene"},
    },
}
NOTES = [
    "the image heads are a multilabel head of 80 classes from the boxes and a classification head",
    "two torchvision networks: fcos_resnet50_fpn and a ResNet-50 classifier, on the same images of full "
    "size; as in the part infer, in processes of their own unless it says 'memory kept'",
]


def pair_name(name: str) -> str:
    """Return what one of the peer's ways is called together with a classifier."""
    return name.replace(PEER, "two torchvision networks", 1)


@dataclass(frozen=True)
class JointSizes:
    """What is measured, and how often.

    Attributes:
        height: of the images, in pixels.
        width: of the images, in pixels.
        train_batch: images per training step.
        batches: images at once at inference, a table for each.
        candidates: as for the part infer.
        trunk: which ResNet.
        channels: of the pyramid and the towers.
        warm_up: calls that are not counted.
        rounds: calls that are; many, since a few percent are to be told apart.
    """

    height: int = 512
    width: int = 512
    train_batch: int = 4
    batches: tuple[int, ...] = (1, 8)
    candidates: int = 200
    trunk: str = "resnet50"
    channels: int = 256
    warm_up: int = 2
    rounds: int = 20

    def setting(self, folder: Path, batch: int) -> Setting:
        """Return the networks' setting with a batch of pictures in the folder."""
        setting = Setting(folder, self.height, self.width, batch, self.trunk, self.channels)
        setting.write_images(objects=8)
        return setting


def measure_joint(
    sizes: JointSizes, device: torch.device, folder: Path, elsewhere: Apart = apart
) -> list[Table]:
    """Time a training step and answers, with detection alone and with the image heads.

    Args:
        sizes: what and how often.
        device: where.
        folder: an empty one, for the pictures.
        elsewhere: makes a call of a process of its own.
    """
    step = _training_table(sizes, device, folder / "train")
    return [step, *_inference_tables(sizes, device, folder / "infer", elsewhere)]


def _training_table(sizes: JointSizes, device: torch.device, folder: Path) -> Table:
    setting = sizes.setting(folder, sizes.train_batch)
    calls = {name: our_step(build_ours(setting, heads, device), device) for name, heads in HEADS.items()}
    timings = measure_in_turn(calls, device, sizes.warm_up, sizes.rounds)
    figures = [figure(name, "ours", timing, 1000) for name, timing in timings.items()]
    title = f"joint: a training step, {_what(sizes)}, batch {sizes.train_batch}"
    targets = [Target(JOINT, ALONE, at_most=1.05)]
    return Table("training", title, "ms", figures, targets, NOTES[:1])


def _inference_tables(sizes: JointSizes, device: torch.device, folder: Path, elsewhere: Apart) -> list[Table]:
    setting = sizes.setting(folder, max(*sizes.batches, 2))
    ours: dict[str, Ours] = {name: build_ours(setting, heads, device) for name, heads in HEADS.items()}
    for each in ours.values():
        prepare_ours(each, device, sizes.candidates)
    dtypes = {name: resolve_precision(each.config.training.precision, device) for name, each in ours.items()}
    models = {name: inference_model(each.model, dtypes[name]) for name, each in ours.items()}
    batch = ours[ALONE].batch
    tables = []
    for count in sizes.batches:
        part = first_images(batch, count)
        calls = {name: our_answer(model, part, device, dtypes[name]) for name, model in models.items()}
        given = (setting, sizes.candidates, count)
        with peer_calls(pair_inference, device, *given, elsewhere=elsewhere) as peers:
            pairs = {pair_name(name): call for name, call in peers.items()}
            timings = measure_in_turn({**pairs, **calls}, device, sizes.warm_up, sizes.rounds)
        figures: list[Figure] = [
            figure(name, "ours" if name in calls else "peer", t, 1000) for name, t in timings.items()
        ]
        targets = [Target(JOINT, ALONE, at_most=1.03), Target(JOINT, pair_name(PEER), at_least=5.0)]
        title = f"joint: inference, {_what(sizes)}, batch {count}, NMS included"
        tables.append(
            Table(f"batch {count}", title, "ms", figures, measured_targets(targets, figures), NOTES)
        )
    return tables


def pair_inference(
    variant: PeerVariant, device: torch.device, setting: Setting, wanted: int, count: int
) -> Call:
    """Return a call that asks a detector and then a classifier, both torchvision's; as `peer_inference`."""
    batch = open_ours(setting, HEADS[ALONE], device).batch
    detector = build_peer(setting, device, variant.channels_last)
    prepare_peer(detector, batch, device, wanted)
    part = first_images(batch, count)
    detect = peer_answer(detector, part, device, variant.dtype)
    classifier = build_classifier(setting, device, variant.channels_last)
    classify = classifier_answer(classifier, part, device, variant.dtype)

    def both(i: int) -> None:
        detect(i)
        classify(i)

    return both


def _what(sizes: JointSizes) -> str:
    return f"{sizes.trunk}, {sizes.height}x{sizes.width}"


def build_classifier(setting: Setting, device: torch.device, channels_last: bool) -> nn.Module:
    """Return torchvision's ResNet classifier of our trunk's depth, with random weights."""
    seed_everything(0)
    network = getattr(resnet, setting.trunk)(weights=None, num_classes=len(SCENES)).to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def classifier_answer(network: nn.Module, batch: Batch, device: torch.device, dtype: torch.dtype) -> Call:
    """Return a call that classifies a batch of normalised float images, as its presets make them."""
    network.eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    images = (torch.stack(peer_images(batch)) - mean) / std

    @torch.inference_mode()
    def answer(_: int) -> None:
        with mixed_precision(device, dtype):
            logits = network(images.to(device))
        logits.float().softmax(1).cpu()

    return answer
