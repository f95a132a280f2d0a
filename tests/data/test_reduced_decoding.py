"""Reduced decoding: the same picture at a smaller scale, exactly where it was, and never too small."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vision_mtl.data import decode
from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.augment import Augmentation
from vision_mtl.data.categories import map_classes
from vision_mtl.data.config import DataConfig, MixConfig, ResizeConfig, SourceConfig, default_augment
from vision_mtl.data.dataset import Dataset, Source
from vision_mtl.data.images import BadImageError, FolderImages, read_image, read_reduced
from vision_mtl.data.mixing import Mixing
from vision_mtl.data.sources import open_sources
from vision_mtl.data.window import resize_image, target_size

from .helpers import write_coco
from .image_files import ODD_IMAGES, encoded, exif, photo
from .test_augment import bright_box

DATA = ODD_IMAGES.parent
RESIZE = ResizeConfig(shorter=64, longer=96)


def jpeg(path: Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels, "JPEG", quality=95, subsampling=0, exif=exif(orientation)))
    return path


def spot(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Black, with a white box."""
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def source_of_files(folder: Path, index: AnnotationIndex, reduced: bool = True) -> Source:
    images = FolderImages(folder, index.file_name, reduced=reduced)
    classes = map_classes(index.categories, index.categories)
    return Source(index, images, {}, True, np.arange(len(index)), classes)


BOXES = [(96, 64, 320, 256), (0, 320, 160, 448), (352, 32, 641, 483)]
SIZES = [(483, 641), (480, 640), (485, 643)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three JPEGs with a white box each, at whole blocks or the image's edge."""
    entries = []
    for i, ((height, width), box) in enumerate(zip(SIZES, BOXES, strict=True)):
        jpeg(tmp_path / f"{i}.jpg", spot(height, width, box))
        entries.append({"id": i, "file_name": f"{i}.jpg", "height": height, "width": width})
    boxes = [
        {"image_id": i, "category_id": 1, "bbox": [x, y, min(r, SIZES[i][1]) - x, min(b, SIZES[i][0]) - y]}
        for i, (x, y, r, b) in enumerate(BOXES)
    ]
    write_coco(tmp_path / "set.json", entries, boxes)
    return tmp_path


@pytest.mark.parametrize(
    ("need", "factor"),
    [
        ((321, 10), 1),
        ((320, 320), 2),
        ((81, 81), 2),
        ((80, 80), 4),
        ((40, 41), 4),
        ((40, 40), 8),
        ((1, 1), 8),
    ],
)
def test_the_factor_leaves_a_halving_beyond_the_first(
    tmp_path: Path, need: tuple[int, int], factor: int
) -> None:
    path = jpeg(tmp_path / "a.jpg", photo(640, 640))
    found = read_reduced(path, lambda *_: need)
    assert (found.factor, found.size) == (factor, (640, 640))
    assert found.pixels.shape == (640 // factor, 640 // factor, 3)
    assert found.span == (640, 640)
    assert read_reduced(path, None).factor == 1
    assert read_image(path).shape == (640, 640, 3)


@pytest.mark.parametrize("size", [(483, 641), (480, 640), (488, 647), (7, 9), (1, 400)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_side_is_smaller_than_what_is_needed(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    path = jpeg(tmp_path / "a.jpg", photo(*size), orientation)
    seen = size if orientation < 5 else size[::-1]
    for shorter in (1, 5, 60, 100, 240, 300):
        needs = partial(target_size, resize=ResizeConfig(shorter=shorter, longer=400))
        found = read_reduced(path, needs)
        assert found.size == seen
        least = np.minimum(needs(*seen), seen)
        assert (found.pixels.shape[:2] >= least).all()
        assert found.pixels.shape[:2] == tuple(-(-side // found.factor) for side in seen)


@pytest.mark.parametrize("size", [(256, 384), (250, 381)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pixel_is_where_the_factor_says(tmp_path: Path, size: tuple[int, int], orientation: int) -> None:
    path = jpeg(tmp_path / "a.jpg", spot(*size, (64, 32, 192, 96)), orientation)
    whole = bright_box(read_image(path))
    factors = set()
    for need in (1, 16, 30, 100, 200):
        found = read_reduced(path, lambda *_, need=need: (need, need))
        np.testing.assert_allclose(bright_box(found.pixels) * found.factor, whole, atol=found.factor / 2)
        factors.add(found.factor)
    # A side that the orientation turns round would begin with what reaches over the edge.
    assert factors == ({1, 2, 4, 8} if size == (256, 384) or orientation in (1, 5) else factors & {1, 2})


def test_gray(tmp_path: Path) -> None:
    path = tmp_path / "gray.jpg"
    path.write_bytes(encoded(photo(64, 64)[..., 0], "JPEG", quality=95))
    found = read_reduced(path, lambda *_: (32, 32))
    assert found.pixels.shape == (32, 32, 3)
    assert (found.pixels == found.pixels[..., :1]).all()
    area = cv2.resize(read_image(path), (32, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(found.pixels.astype(int), area, atol=2)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "BMP"])
def test_other_formats_come_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(photo(), name))
    assert read_reduced(path, lambda *_: (3, 4)).pixels.shape == (48, 64, 3)


def test_cmyk_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    Image.fromarray(photo()).convert("CMYK").save(path)
    found = read_reduced(path, lambda *_: (3, 4))
    assert (found.factor, found.pixels.shape) == (1, (48, 64, 3))


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_truncation_is_found_at_any_scale(tmp_path: Path, kept: float) -> None:
    path = jpeg(tmp_path / "a.jpg", photo(320, 320))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    for need in (320, 160, 40):
        with pytest.raises(BadImageError, match="damaged"):
            read_reduced(path, lambda *_, need=need: (need, need))


def test_the_limit_on_pixels_is_that_of_the_whole_picture(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "a.jpg", photo(320, 320))
    with pytest.raises(BadImageError, match=r"more than data\.max_pixels"):
        read_reduced(path, lambda *_: (40, 40), max_pixels=320 * 319)


def test_a_size_that_is_not_the_headers_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jpeg(tmp_path / "a.jpg", photo(320, 320))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((159, 160, 3), np.uint8))
    with pytest.raises(BadImageError, match="320 x 320 pixels and 160 x 159 were decoded at 1/2"):
        read_reduced(path, lambda *_: (160, 160))


PHOTOS = {"bccd/images": 40, "coco_mini/val2017": 12, "odd_images": 3}
MEAN, LARGEST = 5, 110  # levels of 255, of any one picture


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
@pytest.mark.parametrize("folder", PHOTOS)
@pytest.mark.parametrize("shrink", [2, 2.7, 4, 6, 8, 11, 16])
def test_pixels_are_nearly_those_of_the_area_average(folder: str, shrink: float) -> None:
    means = []
    for path in sorted((DATA / folder).glob("*.jpg"))[:: PHOTOS[folder]]:
        try:
            whole = read_image(path)
        except BadImageError:
            continue
        size = (int(whole.shape[0] / shrink), int(whole.shape[1] / shrink))
        found = read_reduced(path, lambda *_, size=size: size)
        (height, width), span = whole.shape[:2], found.span
        edged = cv2.copyMakeBorder(
            whole, 0, span[0] - height, 0, span[1] - width, borderType=cv2.BORDER_REPLICATE
        )
        difference = cv2.absdiff(resize_image(found.pixels, size), resize_image(edged, size))
        means.append(difference.mean())
        assert means[-1] <= MEAN, path
        assert difference.max() <= LARGEST, path
    assert np.mean(means) <= 2.5


def test_evaluation_sees_the_same_picture_at_the_same_size(folder: Path) -> None:
    index = read_annotations(folder / "set.json", None)
    whole, reduced = (Dataset([source_of_files(folder, index, on)], RESIZE) for on in (False, True))
    for i in range(3):
        first, second = whole[i, 0, i], reduced[i, 0, i]
        assert first.image.shape == second.image.shape
        assert first.meta.size == second.meta.size == SIZES[i]
        np.testing.assert_allclose(second.objects.boxes, first.objects.boxes, rtol=0.004)
        np.testing.assert_allclose(bright_box(second.image), second.objects.boxes[0], atol=1)
        back = second.objects.boxes * np.array(second.meta.scale * 2, np.float32)
        np.testing.assert_allclose(back, index.objects(i).boxes, atol=1e-3)


def windows(augmentation: Augmentation) -> list:
    """Return the list in which the windows that the augmentation draws will be."""
    found, draw = [], augmentation.transforms[0].draw
    augmentation.transforms[0].draw = lambda *a: found.append(draw(*a)) or found[-1]
    return found


@pytest.mark.parametrize("keep_boxes", [False, True])
def test_training_never_enlarges_what_was_reduced(folder: Path, keep_boxes: bool) -> None:
    index = read_annotations(folder / "set.json", None)
    source = source_of_files(folder, index)
    augmentation = Augmentation([{"name": "ScaleJitter", "scale": [0.2, 6.0]}], RESIZE, keep_boxes)
    drawn, factors, compared = windows(augmentation), set(), 0
    for seed in range(60):
        decoded = []
        image, kept, _ = augmentation.read(
            lambda needs, i=seed % 3, to=decoded: to.append(source.read(i, needs)) or to[-1],
            SIZES[seed % 3],
            source.objects(seed % 3),
            [seed],
        )
        left, top, right, bottom = drawn[-1].crop
        factor = decoded[0].factor
        factors.add(factor)
        assert image.shape[:2] == drawn[-1].size
        if factor > 1:
            assert bottom - top >= factor * image.shape[0]
            assert right - left >= factor * image.shape[1]
        seen = bright_box(image)
        if len(kept.boxes) and seen is not None and min(seen[2:] - seen[:2]) > 2:
            np.testing.assert_allclose(seen, kept.boxes[0], atol=1.01)
            compared += 1
        assert not keep_boxes or len(kept.boxes) == 1
    assert factors >= {1, 2}
    assert compared > 20


def test_a_transform_before_the_jitter_gets_the_whole_picture(folder: Path) -> None:
    index = read_annotations(folder / "set.json", None)
    entries = [{"name": "HorizontalFlip", "p": 1.0}, {"name": "ScaleJitter", "p": 0.0}]
    plain, reduced = (
        Dataset([source_of_files(folder, index, on)], RESIZE, Augmentation(entries, RESIZE))[0, 0, 0]
        for on in (False, True)
    )
    np.testing.assert_array_equal(plain.image, reduced.image)


def test_every_picture_of_a_sample_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = read_annotations(folder / "set.json", None)
    source, decoded = source_of_files(folder, index), []
    imdecode, slowly = cv2.imdecode, decode._decode_pillow
    monkeypatch.setattr(cv2, "imdecode", lambda *a: decoded.append(a) or imdecode(*a))
    monkeypatch.setattr(decode, "_decode_pillow", lambda *a: decoded.append(a) or slowly(*a))
    augmentation = Augmentation(default_augment(), RESIZE)
    mixing = Mixing(MixConfig(mosaic=1.0), 9, 0.2)
    for count, dataset in (
        (1, Dataset([source], RESIZE)),
        (1, Dataset([source], RESIZE, augmentation)),
        (4, Dataset([source], RESIZE, augmentation, mixing=mixing)),
    ):
        decoded.clear()
        dataset[0, 0, 0]
        assert len(decoded) == count


def test_the_config_decides(folder: Path) -> None:
    data = DataConfig(train=[SourceConfig(images=str(folder), annotations=str(folder / "set.json"))])
    for on, factor in ((True, 4), (False, 1)):
        data.reduced_decoding = on
        (source,) = open_sources(data, "train", {"objects": None})
        assert source.read(0, lambda *_: (48, 64)).factor == factor
