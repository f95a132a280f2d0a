"""Two-stage detection of images whose source does not annotate every class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.heads.two_stage import OBJECTS, build_head, loss, make_features
from vision_mtl.heads.faster_rcnn import annotated_logits

ANNOTATED = torch.tensor([[True, False, True], [True, True, False]])


def test_the_softmax_of_the_annotated_classes_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator)
    truth = torch.tensor([0, 1, 0, 2, 0])
    counts, expected = [2, 3], []
    for row, image in enumerate([0, 0, 1, 1, 1]):
        known = [0, *(1 + label for label in range(3) if ANNOTATED[image, label])]
        total = sum(float(logits[row, place].exp()) for place in known)
        expected.append(-float(logits[row, truth[row]]) + float(torch.tensor(total).log()))
    masked = annotated_logits(logits, ANNOTATED, counts)
    entropy = F.cross_entropy(masked, truth, reduction="none")
    torch.testing.assert_close(entropy, torch.tensor(expected))


@pytest.mark.parametrize("box_head", ["mlp", "conv"])
def test_all_annotated_is_the_same_bit_for_bit(make_batch, box_head: str) -> None:
    head, features, batch = build_head(box_head=box_head).eval(), make_features(2), make_batch(OBJECTS)
    every = replace(batch, annotated=torch.ones(2, 3, dtype=torch.bool))
    assert loss(head, features, every) == loss(head, features, batch)


def test_the_class_loss_is_a_loop_over_the_proposals(make_batch, monkeypatch: pytest.MonkeyPatch) -> None:
    head, features = build_head(proposals=20).eval(), make_features(3)
    batch = make_batch([OBJECTS[0][:1], [], OBJECTS[1]], has_boxes=[True, False, True])
    annotated = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])
    batch = replace(batch, annotated=annotated)
    seen: dict[str, Any] = {}
    select, classify = head.roi_heads.select_training_samples, head.classify

    def selected(*arguments: Any) -> Any:
        seen["labels"] = (result := select(*arguments))[2]
        return result

    def classified(*arguments: Any) -> Any:
        seen["logits"] = (result := classify(*arguments))[0].detach()
        return result

    monkeypatch.setattr(head.roi_heads, "select_training_samples", selected)
    monkeypatch.setattr(head, "classify", classified)
    terms = loss(head, features, batch)
    row, entropies = 0, []
    for own, labels in zip(annotated[batch.has_boxes], seen["labels"], strict=True):
        for label in labels.tolist():
            known = torch.cat([torch.tensor([True]), own])
            entropies.append(seen["logits"][row][known].logsumexp(0) - seen["logits"][row][label])
            row += 1
    assert row == len(seen["logits"])
    torch.testing.assert_close(terms["class"].detach(), torch.stack(entropies).mean())
    terms["class"].backward()
    gradient = head.roi_heads.box_predictor.cls_score.weight.grad
    assert gradient is not None
    assert gradient[:3].any(1).all()  # background, bolt and nut
    assert not gradient[3].any()  # no image annotates washers


def test_a_partly_annotated_image_has_no_background_anchors(make_batch) -> None:
    head, features = build_head().eval(), make_features(2)
    objects = [(1, (10.0, 10, 40, 40))]
    annotated = torch.tensor([[True, True, True], [False, True, False]])
    batch = replace(make_batch([objects, objects]), annotated=annotated)
    outputs = head(features)
    for level in outputs.objectness:
        level.retain_grad()
    torch.manual_seed(0)
    terms = head.loss(outputs, features, batch)
    terms["objectness"].backward(retain_graph=True)
    moved = torch.cat([level.grad.permute(0, 2, 3, 1).flatten(1) != 0 for level in outputs.objectness], 1)
    anchors = head.propose(outputs, features.sizes, features.input_size).anchors
    targets = [
        {"boxes": batch.boxes[i], "labels": batch.classes[i], "crowds": torch.zeros(0, 4)} for i in (0, 1)
    ]
    labels, _ = head.rpn.assign_targets_to_anchors(anchors, targets)
    positive = torch.stack(labels) > 0
    assert positive.any(1).all()
    assert (moved[0] & ~positive[0]).any()  # background of the image that annotates all
    assert torch.equal(moved[1], positive[1])  # fewer than are drawn


def test_partly_annotated_images_without_objects_teach_no_first_stage(make_batch) -> None:
    head, features = build_head().eval(), make_features(2)
    batch = replace(make_batch([[], []]), annotated=ANNOTATED)
    terms = loss(head, features, batch)
    assert terms["objectness"] == terms["rpn_box"] == 0
    assert terms["class"] > 0  # background is still told from the annotated classes
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert not any(parameter.grad.any() for parameter in head.rpn.parameters() if parameter.grad is not None)
