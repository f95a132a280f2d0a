"""One file into training and validation images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import TinyCoco
from vision_mtl.data.annotations import read_annotations
from vision_mtl.data.splitting import choose_validation, source_name, write_part


def test_copies_have_one_source() -> None:
    assert source_name("cat_jpg.rf.0a1b2c.jpg") == "cat"
    assert source_name("cat.rf.99ff.png") == "cat"
    assert source_name("dir/cat_jpeg.rf.0a1b.jpg") == "dir/cat"
    assert source_name("cat.jpg") == "cat"
    assert source_name("my.surf.jpg") == "my.surf"


def test_shares() -> None:
    """A fifth of the images, and a fifth of those with each label."""
    labels = [["even"] if i % 2 == 0 else ["odd"] for i in range(100)]
    chosen = choose_validation([str(i) for i in range(100)], labels, 0.2)
    assert chosen.sum() == 20
    assert chosen[::2].sum() == 10


def test_a_rare_label_is_trained_first() -> None:
    """Of a label with n images, n - round(n/5) train: one and two images train, of three one validates."""
    for n, validating in ((1, 0), (2, 0), (3, 1), (5, 1), (10, 2)):
        labels = [["rare"] if i < n else [] for i in range(100)]
        chosen = choose_validation([str(i) for i in range(100)], labels)
        assert chosen[:n].sum() == validating, n
        assert chosen.sum() == 20


def test_seed() -> None:
    names = [f"{i}" for i in range(50)]
    first = choose_validation(names, [[]] * 50, seed=0)
    assert (first == choose_validation(names, [[]] * 50, seed=0)).all()
    assert (first != choose_validation(names, [[]] * 50, seed=1)).any()
    order = np.random.default_rng(0).permutation(50)  # the order of the file plays no part
    assert (choose_validation([names[i] for i in order], [[]] * 50) == first[order]).all()


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sets(st.sampled_from("abcd"))), min_size=2, max_size=40),
    st.integers(0, 3),
)
def test_properties(images: list[tuple[int, set[str]]], seed: int) -> None:
    """Groups stay together, neither side is empty, training has every label if it can."""
    groups = [str(group) for group, _ in images]
    labels = [own for _, own in images]
    if len(set(groups)) < 2:
        with pytest.raises(ValueError, match="one group"):
            choose_validation(groups, labels, seed=seed)
        return
    chosen = choose_validation(groups, labels, seed=seed)
    assert 0 < chosen.sum() < len(images)
    validating = {group for group, held_out in zip(groups, chosen, strict=True) if held_out}
    assert not validating & {group for group, held_out in zip(groups, chosen, strict=True) if not held_out}
    known = {label for own, held_out in zip(labels, chosen, strict=True) if not held_out for label in own}
    if len(validating) > 1:
        assert known == {label for own in labels for label in own}


def test_parts_hold_what_the_file_did(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    index = read_annotations(tiny_coco.annotations, cache=None)
    kept = index.image_ids[[0, 3, 4]].tolist()
    write_part(tiny_coco.annotations, kept, tmp_path / "new" / "part.json")
    before = json.loads(tiny_coco.annotations.read_text())
    after = json.loads((tmp_path / "new" / "part.json").read_text())
    assert after["categories"] == before["categories"]
    assert after["images"] == [image for image in before["images"] if image["id"] in kept]
    assert after["annotations"] == [a for a in before["annotations"] if a["image_id"] in kept]
    part = read_annotations(tmp_path / "new" / "part.json", cache=None)
    assert part.attribute("kind") == [index.attribute("kind")[i] for i in (0, 3, 4)]
