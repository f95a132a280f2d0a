"""The data config's own checks, and that what it asks for reaches the training loader."""

from __future__ import annotations

import pytest

from vision_mtl.commands.train import training_loader
from vision_mtl.config import config_from_tree, load_config, to_tree
from vision_mtl.data.multi_scale import MultiScale
from vision_mtl.data.sources import open_sources
from vision_mtl.errors import ConfigError
from vision_mtl.models.vocabulary import label_sources

HEADS = "heads={objects: {type: fcos}, kind: {type: classification, source: attribute, field: kind}}"


def source(settings: str, split: str = "train") -> str:
    """Return the override of a split by one source with these settings."""
    return f"data.{split}=[{{images: a, annotations: b, {settings}}}]"


ERRORS = {
    "data.mix.mosaic=1.5": "data.mix.mosaic: found 1.5, expected 0 to 1",
    "data.mix.mixup=-0.1": "data.mix.mixup: found -0.1, expected 0 to 1",
    "data.mix.mixup=.nan": "data.mix.mixup: found nan, expected a finite number",
    "data.mix.mixup_beta=0": "data.mix.mixup_beta: found 0.0, expected more than 0",
    "data.mix.last_epochs_without=-1": "data.mix.last_epochs_without: found -1, expected 0 or more",
    "data.mix.mosaics=1": "data.mix: unknown key 'mosaics'; did you mean 'mosaic'?",
    "data.multi_scale=[640, 16]": "data.multi_scale[1]: found 16, expected 32 to data.resize.longer",
    "data.multi_scale=[2000]": "data.multi_scale[0]: found 2000, expected 32 to data.resize.longer, which is",
    "data.multi_scale=640": "data.multi_scale: found 640, expected a list",
    "data.repeat_threshold=-1": "data.repeat_threshold: found -1.0, expected 0 to 1",
    "data.repeat_threshold=2": "data.repeat_threshold: found 2.0, expected 0 to 1",
    source("heads: []"): "data.train[0].heads: empty; name the heads",
    source("heads: [kinds]"): (
        "data.train[0].heads: unknown head 'kinds'; did you mean 'kind'? Known: objects, kind"
    ),
    source("heads: [zebra]", "val"): "data.val[0].heads: unknown head 'zebra'. Known:",
    source("repeat: 0"): "data.train[0].repeat: found 0, expected at least 1",
    source("repeat: 1.5"): "data.train[0].repeat: found 1.5, expected",
    source("weight: 0"): "data.train[0].weight: found 0.0, expected more than",
    source("weight: .nan"): "data.train.0.weight: found nan, expected a finite",
    "data.train=[{images: a, annotations: b, weight: 1}, {images: a, annotations: b}]": (
        "data.train[1].weight: found null, but other sources have a weight; give every source one, or none"
    ),
    source("repeat: 2", "val"): "data.val[0].repeat: has a meaning for data.train only",
    source("weight: 1", "test"): "data.test[0].weight: has a meaning for data.train",
    source("rename: [c]"): "data.train[0].rename: found [c], expected",
}


@pytest.mark.parametrize("override", ERRORS)
def test_errors(override):
    with pytest.raises(ConfigError) as error:
        load_config(None, [HEADS, override])
    assert ERRORS[override] in str(error.value)
    assert "\n" not in str(error.value)


def test_everything_together(tiny_coco_root):
    config = load_config(
        None,
        [
            HEADS,
            f"data.root='{tiny_coco_root}'",
            "data.train=[{images: images, annotations: annotations.json}]",
            "data.resize={shorter: 64, longer: 96}",
            "data.mix={mosaic: 0.5, mixup: 0.5, last_epochs_without: 1}",
            "data.multi_scale=[48, 64]",
            "data.repeat_threshold=0.9",
            "data.batch_size=2",
            "data.workers=0",
            "training={epochs: 4, seed: 3}",
        ],
    )
    assert config_from_tree(to_tree(config), "copy") == config
    loader, batches = training_loader(config, open_sources(config.data, "train", label_sources(config.heads)))
    dataset = loader.loader.dataset
    assert isinstance(dataset.augmentation, MultiScale)
    assert [a.resize.shorter for a in dataset.augmentation.augmentations] == [48, 64]
    assert all(a.transforms[0].keep_boxes for a in dataset.augmentation.augmentations)
    assert dataset.mixing.stop == 3
    # Of 8 images 3 have category 21, 4 others have 3 or 7, and one is empty: 11.01 images, rounded up.
    assert batches.factors.sum() == pytest.approx(3 * (0.9 * 8 / 3) ** 0.5 + 4 * (0.9 * 8 / 4) ** 0.5 + 1)
    assert len(batches) == 6
    labels = []
    for batches.epoch in range(4):
        run = list(loader)
        assert len(run) == 6
        labels.append([label for batch in run for label in batch.labels["kind"].tolist()])
    assert all(-1 in epoch and set(epoch) - {-1} for epoch in labels[:3])
    assert -1 not in labels[3]


def test_all_is_off_by_default(tiny_coco_root):
    config = load_config(
        None,
        [
            HEADS,
            f"data.root='{tiny_coco_root}'",
            "data.train=[{images: images, annotations: annotations.json}]",
        ],
    )
    loader, batches = training_loader(config, open_sources(config.data, "train", label_sources(config.heads)))
    assert loader.loader.dataset.mixing is None
    assert not isinstance(loader.loader.dataset.augmentation, MultiScale)
    assert batches.factors is None


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        (("repeat: 3", "repeat: 1"), [3] * 8 + [1] * 8),
        (("weight: 3", "weight: 1"), [1.5] * 8 + [0.5] * 8),
        (("weight: 1, repeat: 2", "weight: 2"), [1] * 8 + [2] * 8),  # 24 images, as without weights
    ],
)
def test_repeats_and_weights_of_sources_reach_the_loader(tiny_coco_root, settings, factors):
    sources = ", ".join(f"{{images: images, annotations: annotations.json, {more}}}" for more in settings)
    config = load_config(
        None,
        [
            HEADS,
            f"data.root='{tiny_coco_root}'",
            f"data.train=[{sources}]",
            "data.batch_size=2",
            "data.workers=0",
        ],
    )
    assert config_from_tree(to_tree(config), "copy") == config
    loader, batches = training_loader(config, open_sources(config.data, "train", label_sources(config.heads)))
    assert batches.factors.tolist() == pytest.approx(factors)
    assert len(loader) == sum(factors) // 2
