"""Data sets as they usually lie in folders, found; and what is said where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vision_mtl.data.layout import find_layout, split_of
from vision_mtl.errors import ConfigError, DataError


def write_coco(path: Path, names: list[str]) -> Path:
    """Write annotations of images with these names, without objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name, "height": 8, "width": 8} for i, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return path


def touch(folder: Path, *names: str) -> Path:
    """Make empty files: only their names are looked at."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(root: Path, **options: object) -> dict[str, tuple[str, str]]:
    """Return split -> (annotations, images), relative to the root."""
    layout = find_layout(root, **options)  # type: ignore[arg-type]
    return {
        split: (str(part.annotations.relative_to(root)), str(part.images.relative_to(root)))
        for split, part in layout.parts.items()
    }


def test_coco_layout(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path / f"annotations/instances_{split}2017.json", ["1.jpg", "2.jpg"])
        write_coco(tmp_path / f"annotations/person_keypoints_{split}2017.json", ["1.jpg"])
        (tmp_path / f"annotations/captions_{split}2017.json").write_text('{"images": [], "annotations": []}')
        touch(tmp_path / f"{split}2017", "1.jpg", "2.jpg")
    assert found(tmp_path) == {
        "train": ("annotations/instances_train2017.json", "train2017"),
        "val": ("annotations/instances_val2017.json", "val2017"),
    }


def test_shared_folder_of_images(tmp_path: Path) -> None:
    for split, name in (("train", "a.png"), ("val", "b.png"), ("test", "c.png")):
        write_coco(tmp_path / f"annotations/{split}.json", [name])
        touch(tmp_path / "images", name)
    assert found(tmp_path) == {
        split: (f"annotations/{split}.json", "images") for split in ("train", "val", "test")
    }


def test_roboflow_layout(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_coco(tmp_path / split / "_annotations.coco.json", ["x.rf.1.jpg"])
        touch(tmp_path / split, "x.rf.1.jpg")
    assert found(tmp_path) == {
        name: (f"{folder}/_annotations.coco.json", folder)
        for name, folder in (("train", "train"), ("val", "valid"), ("test", "test"))
    }


@pytest.mark.parametrize("name", ["labels.json", "val.json", "sub/test.json"])
def test_one_file_is_for_training(tmp_path: Path, name: str) -> None:
    write_coco(tmp_path / name, ["a.jpg"])
    touch(tmp_path / "pictures", "a.jpg")
    assert found(tmp_path) == {"train": (name, "pictures")}


def test_names_with_folders(tmp_path: Path) -> None:
    """The folder is the one that the file names are relative to."""
    write_coco(tmp_path / "all.json", ["photos/2020/a.jpg", "photos/2021/b.jpg"])
    touch(tmp_path, "photos/2020/a.jpg", "photos/2021/b.jpg")
    assert found(tmp_path) == {"train": ("all.json", ".")}


def test_the_fullest_folder_wins_then_the_likeliest(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco.json", ["a.jpg", "b.jpg"])
    touch(tmp_path / "first", "a.jpg")
    touch(tmp_path / "second", "a.jpg", "b.jpg")
    assert found(tmp_path) == {"train": ("coco.json", "second")}
    touch(tmp_path / "images", "a.jpg", "b.jpg")
    assert found(tmp_path) == {"train": ("coco.json", "images")}


def test_a_file_without_a_split_beside_train_and_val(tmp_path: Path) -> None:
    for name in ("train.json", "val.json", "defects.json"):
        write_coco(tmp_path / name, ["a.jpg"])
    touch(tmp_path, "a.jpg")
    layout = find_layout(tmp_path)
    assert list(layout.parts) == ["train", "val"]
    assert layout.ignored == (tmp_path / "defects.json",)


def test_given_files(tmp_path: Path) -> None:
    """They are used in place of those that would be found."""
    for name in ("train.json", "train_exact.json", "val.json"):
        write_coco(tmp_path / name, ["a.jpg"])
    touch(tmp_path / "x", "a.jpg")
    touch(tmp_path / "y", "a.jpg")
    given = [tmp_path / "train_exact.json", tmp_path / "val.json"]
    assert found(tmp_path, annotations=given, images=tmp_path / "y") == {
        "train": ("train_exact.json", "y"),
        "val": ("val.json", "y"),
    }


def test_split_of() -> None:
    root = Path("/data/train")  # what lies above the root says nothing
    for name, split in {
        "instances_val2017.json": "val",
        "valid/_annotations.coco.json": "val",
        "test/images": "test",
        "train_val.json": None,
        "constraints.json": None,
        "a.json": None,
    }.items():
        assert split_of(root / name, root) == split, name


def refusal(root: Path, **options: object) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        find_layout(root, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_wrong_folders(tmp_path: Path) -> None:
    assert "found nothing, expected the folder" in refusal(tmp_path / "none")
    assert "found a file" in refusal(write_coco(tmp_path / "sub/a.json", ["a.jpg"]))
    touch(tmp_path / "empty", "note.txt")
    assert "found no COCO JSON in it (it holds note.txt)" in refusal(tmp_path / "empty")
    (tmp_path / "empty" / "results.json").write_text("[]")
    assert "results.json has other content" in refusal(tmp_path / "empty")
    assert "--images" in refusal(tmp_path / "sub", images=tmp_path / "none")
    assert "found no such file" in refusal(tmp_path / "sub", annotations=[tmp_path / "none.json"])


def test_several_that_fit(tmp_path: Path) -> None:
    write_coco(tmp_path / "train.json", ["a.jpg"])
    write_coco(tmp_path / "train_exact.json", ["a.jpg"])
    said = refusal(tmp_path)
    assert "2 files could be the train split" in said
    assert "train.json, train_exact.json" in said
    assert "--annotations F" in said
    (tmp_path / "train_exact.json").unlink()
    touch(tmp_path / "large", "a.jpg")
    touch(tmp_path / "small", "a.jpg")
    assert "any of large, small; name the folder by --images" in refusal(tmp_path)


def test_none_for_training(tmp_path: Path) -> None:
    write_coco(tmp_path / "val.json", ["a.jpg"])
    write_coco(tmp_path / "test.json", ["a.jpg"])
    assert "none for training" in refusal(tmp_path)


def test_a_broken_file_is_not_passed_over(tmp_path: Path) -> None:
    """Otherwise the other split would be trained on."""
    (tmp_path / "train.json").write_text('{"images": [')
    write_coco(tmp_path / "val.json", ["a.jpg"])
    touch(tmp_path, "a.jpg")
    said = refusal(tmp_path)
    assert "train.json" in said
    assert "not valid JSON" in said


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    write_coco(tmp_path / "all.json", ["pictures/a.jpg"])
    touch(tmp_path / "photos", "b.jpg", "c.jpg")
    said = refusal(tmp_path)
    assert "such as pictures/a.jpg, are in no folder" in said
    assert "photos (2 images, such as b.jpg)" in said
    touch(tmp_path / "photos", "a.jpg")
    assert f"the images lie in '{tmp_path / 'photos'}'" in refusal(tmp_path)


def test_no_images_listed(tmp_path: Path) -> None:
    write_coco(tmp_path / "all.json", [])
    assert "lists no image" in refusal(tmp_path)
