"""Norms folded into convolutions: the same answers, with fewer passes over memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from tests.models.small import BATCH, HEADS, LABELS, TRUNK
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.folding import fold_norms, for_inference
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.residual import normed, residual
from vision_mtl.models.trunk import TrunkConfig

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
TWO_STAGE = TrunkConfig(name="resnet18", channels=32, finest=2, extra="p6", pyramid_norm="batch")
DETECTORS: dict[str, tuple[TrunkConfig, Any]] = {
    "fcos": (TRUNK, FcosConfig(depth=2)),
    "fcos with group norm": (TRUNK, FcosConfig(depth=1, norm="group")),
    "retinanet": (TRUNK, RetinanetConfig(depth=1, anchor_scale=2.0, norm="group")),
    "faster_rcnn": (TWO_STAGE, FasterRcnnConfig(proposals=20, proposals_train=20, box_head="conv")),
}


def stir(network: nn.Module) -> None:
    """Give batch norms statistics that a test can tell from fresh ones."""
    for module in network.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)


def network(trunk: TrunkConfig, detector: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    model = build_model(ModelConfig(trunk=trunk, heads={**HEADS, "objects": detector}), LABELS)
    stir(model)
    return model.eval()


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in tensors(part)] if isinstance(value, (list, tuple)) else []


@torch.no_grad()
def answers(model: MultiTaskModel) -> list[Tensor]:
    """Return the features and the dense outputs of all heads."""
    features, outputs = model(BATCH.images, BATCH.sizes)
    found = [*features.stages.values(), *features.pyramid]
    return found + [tensor.float() for output in outputs.values() for tensor in tensors(output)]


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_folded_network_answers_the_same(kind: str) -> None:
    model = network(*DETECTORS[kind])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected, found = answers(model), answers(fold_norms(model))
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4 * float(a.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", DETECTORS)
def test_no_batch_norm_is_left_over(kind: str) -> None:
    model = network(*DETECTORS[kind])
    assert any(isinstance(module, NORMS) for module in model.modules())
    folded = fold_norms(model)
    left = {name.split(".")[1] for name, module in folded.named_modules() if isinstance(module, NORMS)}
    assert left <= {"objects"}, "only the box head of Faster R-CNN, which runs in fp32, may keep some"
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@pytest.mark.parametrize("kind", DETECTORS)
def test_in_bf16_it_is_as_close_to_fp32_as_the_unfolded_network(kind: str) -> None:
    model = network(*DETECTORS[kind])
    exact = answers(model)
    with torch.autocast("cpu", torch.bfloat16):
        plain, ready = answers(model), answers(for_inference(model, torch.bfloat16))
    for truth, a, b in zip(exact[:6], plain[:6], ready[:6], strict=True):  # before proposals are ranked
        allowed = 1.5 * (a.float() - truth).square().mean().sqrt() + 1e-6
        assert (b.float() - truth).square().mean().sqrt() <= allowed


def test_in_bf16_weights_are_turned_once_and_for_all() -> None:
    ready = for_inference(network(*DETECTORS["fcos"]), torch.bfloat16)
    weights = [m.weight for m in ready.trunk.modules() if isinstance(m, nn.Conv2d)]
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_in_fp32_the_network_stays_as_it_is() -> None:
    model = network(*DETECTORS["fcos"])
    assert for_inference(model, torch.float32) is model


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stage", ["layer1", "layer2"])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize("training", [True, False])
def test_residual_blocks_are_torchvisions(
    kind: str, stage: str, norm: type[nn.Module], training: bool
) -> None:
    torch.manual_seed(0)
    block = getattr(getattr(resnet, kind)(norm_layer=norm), stage)[0].train(training)
    stir(block)
    x = torch.randn(2, block.conv1.in_channels, 8, 12)
    found = residual(block, x)
    found.sum().backward()
    gradients = [parameter.grad for parameter in block.parameters()]
    block.zero_grad()
    expected = block(x)
    expected.sum().backward()
    assert torch.equal(found, expected)
    assert all(
        torch.equal(gradient, parameter.grad)
        for gradient, parameter in zip(gradients, block.parameters(), strict=True)
    )


def test_a_frozen_norm_in_mixed_precision_is_part_of_the_convolution() -> None:
    """Gradients arrive at the convolution as if the norm stood behind it, and the result stays in bf16."""
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), FrozenBatchNorm2d(16)
    stir(norm)
    x = torch.randn(2, 8, 10, 12)
    norm(convolution(x)).square().mean().backward()
    expected, convolution.weight.grad = convolution.weight.grad, None
    assert expected is not None
    with torch.autocast("cpu", torch.bfloat16):
        found = normed(convolution, norm, x)
    assert found.dtype == torch.bfloat16
    found.float().square().mean().backward()
    assert convolution.weight.grad is not None
    torch.testing.assert_close(
        convolution.weight.grad, expected, rtol=0.05, atol=0.02 * float(expected.abs().max())
    )
