"""Input: JPEG files to a collated batch, augmented, against torchvision's reference transforms."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torchvision import tv_tensors
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from vision_mtl.benchmark.pictures import write_pictures
from vision_mtl.benchmark.process import Apart, Call, apart
from vision_mtl.benchmark.profiling import profile_functions
from vision_mtl.benchmark.results import Profile, Table, Target, figure
from vision_mtl.commands.timing import measure_in_turn
from vision_mtl.data.config import DataConfig, ResizeConfig, SourceConfig
from vision_mtl.data.dataset import collate, training_dataset
from vision_mtl.data.sources import open_sources
from vision_mtl.models.trunk import MEAN, STD

PEER, OURS, LIMIT = "torchvision", "ours", "decoding alone, OpenCV"
PROFILED = {  # what ours spends its time on -> the functions that do it
    "decoding": ("imdecode",),
    "resampling": ("resize",),
    "flips and colours": ("__call__",),
    "copy into the batch": ("collate",),
    "reading, checking the header": ("open_file", "refuse_heavy", "open_image"),
    "random numbers": ("_seed",),
    "boxes": ("move", "_visible"),
}
SHORTER_SIDES = tuple(range(480, 801, 32))  # of torchvision's references/detection/presets.py, "multiscale"


@dataclass(frozen=True)
class InputSizes:
    """What is read, and how often.

    Attributes:
        height: of the JPEGs, in pixels.
        width: of the JPEGs, in pixels.
        images: files, read in turn.
        batch: images per batch.
        shorter: the shorter side becomes this many pixels,
        longer: unless the longer one exceeds this many.
        sides: shorter sides to draw from, for several scales.
        batches: read one after another in each round, as a worker does, which reads nothing else between.
        warm_up: rounds that are not counted.
        rounds: rounds that are.
    """

    height: int = 480
    width: int = 640
    images: int = 32
    batch: int = 4
    shorter: int = 800
    longer: int = 1333
    sides: tuple[int, ...] = SHORTER_SIDES
    batches: int = 5
    warm_up: int = 2
    rounds: int = 30

    def rows(self, i: int) -> list[int]:
        """Return the images of batch i."""
        return [(i * self.batch + k) % self.images for k in range(self.batch)]


@dataclass(frozen=True)
class Recipe:
    """One augmentation, as either side has it.

    Attributes:
        name: of its table.
        title: what it does.
        peer: torchvision's transforms before the conversion to a tensor.
        resized: whether these resize already, so that the model's transform does not.
        augment: ours, as in YAML.
        sides: our shorter sides, of which a batch draws one; [] for the one.
        times: how many times ours torchvision's time is to be.
    """

    name: str
    title: str
    peer: list[Any]
    resized: bool
    augment: list[dict[str, Any]]
    sides: list[int]
    times: float


def recipes(sizes: InputSizes) -> list[Recipe]:
    """Return the reference's `hflip`, and its `multiscale` with the photometric jitter of its `ssd`."""
    # RandomPhotometricDistort's ranges; ours draws all changes at once, it each of them half the time.
    jitter = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05, "shuffle": 0.5}
    several = [
        v2.RandomPhotometricDistort(),
        v2.RandomShortestSize(min_size=list(sizes.sides), max_size=sizes.longer),
        v2.RandomHorizontalFlip(0.5),
    ]
    flip = {"name": "HorizontalFlip", "p": 0.5}
    ours = [{"name": "ColorJitter", "p": 1.0, **jitter}, flip]
    sides = f"{sizes.sides[0]} to {sizes.sides[-1]}/{sizes.longer}"
    return [
        Recipe(
            "flip",
            f"{sizes.shorter}/{sizes.longer}, flip",
            [v2.RandomHorizontalFlip(0.5)],
            False,
            [flip],
            [],
            6.0,
        ),
        Recipe("jitter", f"{sides}, photometric jitter, flip", several, True, ours, list(sizes.sides), 8.0),
    ]


def measure_input(
    sizes: InputSizes, device: torch.device, folder: Path, elsewhere: Apart = apart
) -> list[Table]:
    """Time a batch of either side in turn, and that of decoding alone, for both augmentations.

    Args:
        sizes: what and how often.
        device: not used: images are read on the CPU.
        folder: an empty one, for the pictures.
        elsewhere: makes a call of a process of its own.
    """
    write_pictures(folder, sizes.images, sizes.height, sizes.width, 7, seed=0)
    kilobytes = sum(path.stat().st_size for path in (folder / "images").iterdir()) / sizes.images / 1000
    notes = [
        f"JPEGs drawn by the command, {kilobytes:.0f} KB in the mean; all in one thread, as in a worker, "
        "torchvision in a process of its own with the C library's allocator as its users have it; ours "
        f"keeps freed memory, as its workers do; {sizes.batches} batches of one side, then of the other",
        "torchvision: CocoDetection and v2 transforms on PIL images as its references use them, then the "
        "model's own GeneralizedRCNNTransform: a float batch. Ours: a uint8 batch, normalised on the device",
        "limit: cv2.imread of the same files",
    ]
    tables = []
    with one_thread():
        for recipe in recipes(sizes):
            calls = {
                OURS: several(our_batches(sizes, recipe, folder), sizes.batches),
                LIMIT: several(decoding(sizes, folder), sizes.batches),
            }
            with elsewhere(peer_rounds, sizes, recipe.name, folder) as peer:
                found = measure_in_turn(
                    {PEER: peer, **calls}, torch.device("cpu"), sizes.warm_up, sizes.rounds
                )
            scale = 1000 / (sizes.batches * sizes.batch)
            figures = [
                figure(PEER, "peer", found[PEER], scale),
                figure(OURS, "ours", found[OURS], scale, LIMIT),
                figure(LIMIT, "limit", found[LIMIT], scale),
            ]
            title = f"input: an image of {sizes.width}x{sizes.height} to its place in a batch, {recipe.title}"
            targets = [Target(OURS, PEER, at_least=recipe.times)]
            tables.append(Table(recipe.name, title, "ms", figures, targets, notes))
    return tables


def several(call: Call, times: int) -> Call:
    """Return a call that makes `times` calls with numbers that go on from one call to the next."""

    def calls(i: int) -> None:
        for k in range(i * times, (i + 1) * times):
            call(k)

    return calls


def profile_input(sizes: InputSizes, device: torch.device, folder: Path, trace: Path) -> list[Profile]:
    """Return where a batch of ours spends its time, for both augmentations; arguments as of `measure_input`.

    `trace` names the files, which have the augmentation's name and `.pstats` in place of its extensions.
    """
    write_pictures(folder, sizes.images, sizes.height, sizes.width, 7, seed=0)
    stem = trace.name.partition(".")[0]
    found = []
    with one_thread():
        for recipe in recipes(sizes):
            name = f"input: a batch of {sizes.batch} of ours, {recipe.title}"
            statistics = trace.with_name(f"{stem}_{recipe.name}.pstats")
            batches = our_batches(sizes, recipe, folder)
            found.append(profile_functions(name, batches, sizes.rounds, PROFILED, statistics))
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch and OpenCV to one thread, as both sides' workers do."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def peer_rounds(sizes: InputSizes, name: str, folder: Path) -> Call:
    """Return a call that reads a round's batches as torchvision does, in a process of its own."""
    torch.set_num_threads(1)
    recipe = next(recipe for recipe in recipes(sizes) if recipe.name == name)
    return several(peer_batches(sizes, recipe, folder), sizes.batches)


def peer_batches(sizes: InputSizes, recipe: Recipe, folder: Path) -> Call:
    """Return a call that reads batch i as torchvision's `references/detection` do with `--use-v2`."""
    transforms = v2.Compose(
        [
            *recipe.peer,
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.ConvertBoundingBoxFormat(tv_tensors.BoundingBoxFormat.XYXY),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        plain = CocoDetection(str(folder / "images"), str(folder / "annotations.json"), transforms=transforms)
    dataset = wrap_dataset_for_transforms_v2(plain, target_keys=["boxes", "labels", "image_id"])
    size = {"min_size": sizes.shorter, "max_size": sizes.longer, "_skip_resize": recipe.resized}
    model_transform = GeneralizedRCNNTransform(image_mean=list(MEAN), image_std=list(STD), **size).train()

    def read(i: int) -> object:
        images, targets = zip(*(dataset[row] for row in sizes.rows(i)), strict=True)
        return model_transform(list(images), list(targets))

    return read


def our_batches(sizes: InputSizes, recipe: Recipe, folder: Path) -> Call:
    """Return a call that reads batch i as our loader's workers do."""
    data = DataConfig(
        root=str(folder),
        train=[SourceConfig(images="images", annotations="annotations.json")],
        resize=ResizeConfig(shorter=sizes.shorter, longer=sizes.longer),
        augment=recipe.augment,
        multi_scale=recipe.sides,
        batch_size=sizes.batch,
    )
    dataset = training_dataset(data, open_sources(data, "train", {"objects": None}), seed=0, epochs=1)

    def read(i: int) -> object:
        positions = range(i * sizes.batch, (i + 1) * sizes.batch)
        return collate([dataset[row, 0, at] for row, at in zip(sizes.rows(i), positions, strict=True)])

    return read


def decoding(sizes: InputSizes, folder: Path) -> Call:
    """Return a call that decodes the files of batch i and does nothing with them."""
    files = sorted(str(path) for path in (folder / "images").iterdir())
    return lambda i: [cv2.imread(files[row]) for row in sizes.rows(i)]
