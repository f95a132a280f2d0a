"""The embedded data set: what it promises about its pictures, its labels and its folder."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from vision_mtl.data import shapes
from vision_mtl.data.shapes import SCENES, SHAPES, ShapeObject, draw_layout, draw_scene, ensure_shapes
from vision_mtl.data.shapes_drawing import outline, outline_area, paint
from vision_mtl.errors import DataError

SMALL = {"train": 3, "val": 2, "test": 2}

Described = tuple[tuple[int, int], list[ShapeObject], str]


@pytest.fixture(scope="module")
def described() -> list[Described]:
    """Size, objects and scene of 400 pictures, without the cost of painting them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "background", lambda rng, scene, height, width: np.zeros((height, width, 3)))
        patch.setattr(shapes, "paint", lambda rng, image, contours: None)
        patch.setattr(shapes, "finish", lambda rng, image: image)
        drawn = [draw_scene(np.random.default_rng(np.random.SeedSequence([0, 0, i]))) for i in range(400)]
    return [(image.shape[:2], objects, scene) for image, objects, scene in drawn]


def chi_square(table: np.ndarray) -> float:
    """Pearson's statistic for the independence of rows and columns."""
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_scene_is_a_function_of_its_generator() -> None:
    first, objects, scene = draw_scene(np.random.default_rng(5))
    again, objects_again, scene_again = draw_scene(np.random.default_rng(5))
    assert first.dtype == np.uint8
    assert first.shape[2] == 3
    assert first.tobytes() == again.tobytes()
    assert (scene, [o.box for o in objects]) == (scene_again, [o.box for o in objects_again])
    assert first.tobytes() != draw_scene(np.random.default_rng(6))[0].tobytes()


def test_boxes_are_tight_around_visible_pixels(described: list[Described]) -> None:
    for (height, width), objects, _ in described:
        claimed = np.zeros((height, width), int)
        for item in objects:
            x, y, w, h = item.box
            rows, columns = np.nonzero(item.visible)
            assert (x, y) == (columns.min(), rows.min())
            assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height
            assert item.area == len(rows)
            claimed += item.visible
        assert claimed.max(initial=0) <= 1, "a pixel belongs to two objects"


@pytest.mark.parametrize("shape", SHAPES)
def test_paint_fills_the_pixels_that_the_box_speaks_of(shape: str) -> None:
    contours = outline(shape, (60.3, 48.7), 61.0, 0.4, 0.85)
    image = np.full((100, 120, 3), 0.5, np.float32)
    paint(np.random.default_rng(0), image, contours)
    colored = np.ptp(image, axis=2) > 0.06  # the shadow darkens the grey but leaves it grey
    visible = shapes.covered(contours, 100, 120)
    painted_box = cv2.boundingRect(colored.view(np.uint8))
    np.testing.assert_allclose(painted_box, ShapeObject(shape, contours, visible).box, atol=1)
    perimeter = sum(cv2.arcLength(contour, True) for contour in contours)
    assert visible.sum() == pytest.approx(outline_area(contours), abs=0.5 * perimeter)  # half a pixel around
    assert max(painted_box[2:]) == pytest.approx(61, abs=1.5)


def test_objects_keep_their_limits(described: list[Described]) -> None:
    sides = [max(o.box[2:]) for _, objects, _ in described for o in objects]
    assert min(sides) >= 16
    assert max(sides) <= 200
    assert np.mean([28 <= side <= 150 for side in sides]) > 0.8
    hidden = [1 - o.area / outline_area(o.contours) for _, objects, _ in described for o in objects]
    assert max(hidden) <= 0.4
    assert 0.1 < np.mean(np.array(hidden) > 0.1) < 0.5, "some overlap, not too much"


def test_counts_sizes_and_classes_are_spread_as_promised(described: list[Described]) -> None:
    counts = Counter(len(objects) for _, objects, _ in described)
    assert set(range(11)) <= set(counts) <= set(range(13))
    assert 0.07 < counts[0] / len(described) < 0.13
    assert sum(counts[n] for n in range(1, 7)) > 0.65 * len(described)
    image_sizes = Counter(size for size, _, _ in described)
    assert image_sizes.most_common(1)[0][0] == (256, 320)
    assert (320, 256) in image_sizes

    shape_counts = Counter(o.shape for _, objects, _ in described for o in objects)
    scene_counts = Counter(scene for _, _, scene in described)
    for counted, names in ((shape_counts, SHAPES), (scene_counts, SCENES)):
        mean = counted.total() / len(names)
        assert all(0.65 * mean < counted[name] < 1.35 * mean for name in names), counted


def test_the_scene_cannot_be_told_from_anything_else(described: list[Described]) -> None:
    """Statistics stay below the 99.9% quantile of chi-square for their degrees of freedom."""
    by_shape = np.zeros((len(SCENES), len(SHAPES)))
    by_count = np.zeros((len(SCENES), 3))
    by_size: dict[tuple[int, int], np.ndarray] = {size: np.zeros(len(SCENES)) for size, _, _ in described}
    for size, objects, scene in described:
        row = SCENES.index(scene)
        for item in objects:
            by_shape[row, SHAPES.index(item.shape)] += 1
        by_count[row, 0 if len(objects) < 3 else 1 if len(objects) < 6 else 2] += 1
        by_size[size][row] += 1
    assert chi_square(by_shape) < 66.6  # 35 degrees of freedom
    assert chi_square(by_count) < 29.6  # 10
    assert chi_square(np.stack(list(by_size.values()))) < 37.7  # 15


def test_every_scene_can_be_drawn_at_any_size() -> None:
    for scene in SCENES:
        image = shapes.background(np.random.default_rng(1), scene, 70, 45)
        assert image.shape == (70, 45, 3)
        assert image.dtype == np.float32
        assert image.std() > 0.02, f"{scene} has no texture"


def test_small_images_hold_fewer_objects_rather_than_broken_ones() -> None:
    layouts = [draw_layout(np.random.default_rng(i), 64, 64) for i in range(30)]
    assert all(item.is_recognisable() for objects in layouts for item in objects)


def test_the_folder_is_coco_and_the_same_every_time(tmp_path: Path) -> None:
    folder = ensure_shapes(tmp_path / "a", **SMALL)
    files = contents(folder)
    assert files == contents(ensure_shapes(tmp_path / "b", **SMALL))
    other = ensure_shapes(tmp_path / "a", seed=1, **SMALL)
    assert other != folder
    assert not set(contents(other).values()) & set(files.values())

    ids: list[int] = []
    for split, count in SMALL.items():
        coco = COCO(str(folder / "annotations" / f"{split}.json"))
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SHAPES)
        assert coco.getCatIds() == list(range(1, len(SHAPES) + 1))
        assert len(coco.imgs) == count
        assert 0 not in coco.anns
        ids += coco.imgs
        for image in coco.imgs.values():
            pixels = cv2.imread(str(folder / split / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3)
            assert image["attributes"]["scene"] in SCENES
        for annotation in coco.anns.values():
            x, y, w, h = annotation["bbox"]
            assert 0 < annotation["area"] <= w * h
            assert x + w <= coco.imgs[annotation["image_id"]]["width"]
            assert y + h <= coco.imgs[annotation["image_id"]]["height"]
    assert len(set(ids)) == len(ids), "image ids are distinct over the splits"
    pictures = [data for name, data in files.items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures), "a picture is in two splits"


def test_an_existing_set_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_shapes(tmp_path, **SMALL)
    monkeypatch.setattr(shapes, "draw_scene", lambda rng, scene: pytest.fail("drawn again"))
    assert ensure_shapes(tmp_path, **SMALL) == folder


def test_the_default_place_is_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_MTL_CACHE", str(tmp_path))
    assert ensure_shapes(**SMALL).is_relative_to(tmp_path)


def test_an_interrupted_run_leaves_nothing_and_the_next_one_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def interrupted(rng: np.random.Generator, scene: str) -> tuple[np.ndarray, list[ShapeObject], str]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return draw_scene(rng, scene)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "draw_scene", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_shapes(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []
    folder = ensure_shapes(tmp_path, **SMALL)
    assert len(json.loads((folder / "annotations" / "test.json").read_text())["images"]) == 2


def test_the_loser_of_a_race_uses_the_winners_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = shapes._write

    def overtaken(folder: Path, seed: int, counts: tuple[int, int, int]) -> None:
        write(folder, seed, counts)
        monkeypatch.setattr(shapes, "_write", write)
        winner = ensure_shapes(tmp_path, **SMALL)
        (winner / "winner").touch()

    monkeypatch.setattr(shapes, "_write", overtaken)
    folder = ensure_shapes(tmp_path, **SMALL)
    assert (folder / "winner").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="VISION_MTL_CACHE"):
        ensure_shapes(blocked, **SMALL)


def test_a_read_only_cache_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")  # simulated, since root may write anywhere

    monkeypatch.setattr(shapes, "_write", denied)
    with pytest.raises(DataError, match=r"Permission denied.*VISION_MTL_CACHE"):
        ensure_shapes(tmp_path, **SMALL)
