"""What all detection heads' configs refuse, and where the error says it is."""

from __future__ import annotations

from typing import Any

import pytest

from vision_mtl.config import load_config
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.detection import DetectionConfig
from vision_mtl.models.multitask import build_model

every_type = pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn"])


def head_of(kind: str, **values: Any) -> list[str]:
    trunk = "finest: 2, extra: p6" if kind == "faster_rcnn" else "finest: 3"
    return [
        f"trunk={{name: resnet18, channels: 32, {trunk}}}",
        f"heads.boxes={{type: {kind}}}",
        *(f"heads.boxes.{key}={value}" for key, value in values.items()),
    ]


@every_type
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score_threshold": 1.5}, r"heads\.boxes\.score_threshold: found 1\.5, expected 0 to 1"),
        ({"nms_threshold": -0.1}, r"heads\.boxes\.nms_threshold: found -0\.1, expected 0 to 1"),
        ({"candidates": 0}, r"heads\.boxes\.candidates: found 0, expected at least 1"),
        ({"max_detections": 0}, r"heads\.boxes\.max_detections: found 0, expected at least 1"),
        (
            {"class_weights": "{nut: -1}"},
            r"heads\.boxes\.class_weights\.nut: found -1\.0, expected 0 or more",
        ),
        ({"class_weights": "{nut: .nan}"}, r"heads\.boxes\.class_weights\.nut: found nan, expected a finite"),
    ],
)
def test_values_out_of_range_are_named(kind: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, head_of(kind, **values))


@every_type
def test_limits_themselves_are_allowed(kind: str) -> None:
    values = {"score_threshold": 0, "nms_threshold": 1, "candidates": 1, "class_weights": "{nut: 0}"}
    head = load_config(None, head_of(kind, **values)).heads["boxes"]
    assert isinstance(head, DetectionConfig)
    assert (head.candidates, head.class_weights) == (1, {"nut": 0.0})


@every_type
def test_what_does_not_fit_the_data_names_the_head(kind: str) -> None:
    config = load_config(None, head_of(kind, class_weights="{bolt: 2.0}"))
    with pytest.raises(ConfigError, match=r"^heads\.boxes: class_weights: found 'bolt', expected .*: nut$"):
        build_model(config.model(), {"boxes": LabelInfo(("nut",), (1,))})
