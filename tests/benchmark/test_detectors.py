"""The networks whose speed is compared: the peer is its builder's, and both find as much."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection import fcos_resnet50_fpn

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.detectors import (
    DEFAULT_HEAD,
    PEER_TOWERS,
    Setting,
    build_ours,
    first_images,
    prepare_ours,
    set_candidates,
    settle,
)
from vision_mtl.benchmark.torchvision_peer import build_peer, peer_targets, prepare_peer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    setting = Setting(tmp_path_factory.mktemp("pictures"), 64, 96, 2, "resnet18", 32)
    setting.write_images(objects=3)
    return setting


def test_the_peer_is_what_torchvisions_builder_makes(tmp_path: Path) -> None:
    with torch.device("meta"):
        ours = build_peer(Setting(tmp_path, 512, 640, 1), torch.device("meta"))
        theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None, min_size=512, max_size=640)
    shapes = [{name: t.shape for name, t in network.state_dict().items()} for network in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert all(parameter.requires_grad for parameter in theirs.parameters())
    assert all(parameter.requires_grad for parameter in ours.parameters())
    assert (ours.transform.min_size, ours.transform.max_size) == ((512,), 640)


def test_a_class_layer_gets_as_many_candidates_as_are_wanted() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 5, 1)
    features, quality = torch.rand(2, 4, 6, 6), torch.randn(2, 36)

    def logits() -> torch.Tensor:
        return layer(features).flatten(2).transpose(1, 2)

    set_candidates(layer, logits().detach(), quality, threshold=0.3, wanted=7)
    scores = (logits().sigmoid() * quality.sigmoid()[..., None]).sqrt()
    assert int((scores >= 0.3 - 1e-6).sum()) == 14
    assert logits().std((0, 1)).tolist() == pytest.approx([1.0] * 5, abs=1e-4)


def test_settled_norms_have_the_statistics_of_the_call() -> None:
    norm, values = nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5) * 7 + 2
    settle(norm, lambda: norm(values))
    assert torch.allclose(norm.running_mean, values.mean((0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]
    assert not norm.training
    assert norm.momentum == 0.1


@pytest.mark.parametrize("head", [DEFAULT_HEAD, PEER_TOWERS], ids=["default", "towers"])
def test_both_sides_find_as_many_candidates(setting: Setting, head: dict[str, object]) -> None:
    ours = build_ours(setting, {HEAD: head}, CPU, "fp32")
    prepare_ours(ours, CPU, wanted=20)
    with torch.no_grad():
        features, outputs = ours.model(ours.batch.images, ours.batch.sizes)
        decoded = ours.model.decode(features, outputs)[HEAD]
    threshold = ours.config.heads[HEAD].score_threshold  # type: ignore[union-attr]
    assert 36 <= int((decoded.scores >= threshold).sum()) <= 44

    peer = build_peer(setting, CPU)
    prepare_peer(peer, ours.batch, CPU, wanted=20)
    peer.nms_thresh = 1.0  # all that reach the threshold
    with torch.no_grad():
        found = peer([image.float() / 255 for image in ours.batch.images])
    assert 36 <= sum(len(each["scores"]) for each in found) <= 44


def test_the_first_images_of_a_batch(setting: Setting) -> None:
    batch = build_ours(setting, {HEAD: DEFAULT_HEAD}, CPU).batch
    one = first_images(batch, 1)
    assert one.images.shape == (1, 3, 64, 96)
    assert torch.equal(one.boxes, batch.boxes[:1])
    assert one.metas == batch.metas[:1]


def test_a_peers_targets_are_the_batchs_objects(setting: Setting) -> None:
    batch = build_ours(setting, {HEAD: DEFAULT_HEAD}, CPU).batch
    targets = peer_targets(batch)
    assert [len(target["boxes"]) for target in targets] == [3, 3]
    assert torch.equal(targets[0]["labels"], batch.classes[0] + 1)
