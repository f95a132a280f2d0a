"""One annotation file into two: training and validation images, reproducibly and with every label in both."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from vision_mtl.files import whole

# Roboflow exports several augmented copies of an image as <name>_<extension>.rf.<hash>.<extension>.
_COPY = re.compile(r"(_(jpe?g|png|bmp|webp))?\.rf\.[0-9A-Za-z]+$")


def source_name(file_name: str) -> str:
    """Return what the copies of one image have in common: its file name without extension and export hash."""
    stem = file_name.rpartition(".")[0] or file_name
    return _COPY.sub("", stem)


def choose_validation(
    groups: Sequence[str], labels: Sequence[Collection[str]], share: float = 0.2, seed: int = 0
) -> np.ndarray:
    """Return which of I images are for validation, (I,) bool.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data",
    ECML PKDD 2011): from the rarest label to the most frequent, each image that has it goes to the side that
    still lacks most of it. Beyond the paper, images of one group stay together, and a label that ended up in
    validation alone takes a group back to training, which otherwise would not know it.

    Args:
        groups: per image the name of its group.
        labels: per image what should be in both sides in proportion.
        share: of the images, for validation.
        seed: of the order in which groups are dealt.

    Raises:
        ValueError: fewer than two groups.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError("one group of images cannot be in both splits")
    order = {names[k]: place for place, k in enumerate(np.random.default_rng(seed).permutation(len(names)))}
    members: dict[str, list[int]] = {name: [] for name in sorted(names, key=order.__getitem__)}
    for i, group in enumerate(groups):
        members[group].append(i)
    # The empty label is every image's: it deals those without any, and keeps the sizes right.
    held = {name: {"", *(label for i in places for label in labels[i])} for name, places in members.items()}
    count: dict[str, int] = {}
    for name in members:
        for label in held[name]:
            count[label] = count.get(label, 0) + 1
    wanted = {label: [n * (1 - share), n * share] for label, n in count.items()}
    side: dict[str, int] = {}
    for label in sorted(count, key=lambda label: (count[label], label)):
        for name in members:
            if name in side or label not in held[name]:
                continue
            lacking, total = wanted[label], wanted[""]
            side[name] = int((lacking[1], total[1]) > (lacking[0], total[0]))
            for own in held[name]:
                wanted[own][side[name]] -= 1
    _mend(side, held)
    return np.array([side[group] == 1 for group in groups])


def _mend(side: dict[str, int], held: dict[str, set[str]]) -> None:
    """Have one group at least on each side, and every label in training (side 0)."""
    if 1 not in side.values():
        spare = [name for name in side if all(_elsewhere(name, label, held) for label in held[name])]
        side[(spare or list(side))[-1]] = 1
    for label in sorted(set().union(*held.values())):
        owners = [name for name in side if label in held[name]]
        if all(side[name] for name in owners) and sum(side.values()) > 1:
            side[owners[0]] = 0


def _elsewhere(name: str, label: str, held: dict[str, set[str]]) -> bool:
    return any(label in labels for other, labels in held.items() if other != name)


class _Lists(msgspec.Struct):
    images: list[Raw]
    annotations: list[Raw]
    categories: Raw


class _WithId(msgspec.Struct):
    id: int


class _WithImageId(msgspec.Struct):
    image_id: int


def write_part(annotations: Path, image_ids: Collection[int], target: Path) -> None:
    """Write the part of a COCO file that is about some images, entries as they are, to `target`.

    Args:
        annotations: a file that `read_annotations` has accepted.
        image_ids: the images to keep.
        target: the new file; its folder is made if need be.

    Raises:
        OSError: `target` cannot be written.
    """
    content = annotations.read_bytes().removeprefix(codecs.BOM_UTF8)
    lists = msgspec.json.decode(content, type=_Lists)
    wanted = set(image_ids)
    image: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_WithId)
    annotation: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_WithImageId)
    kept = _Lists(
        [raw for raw in lists.images if image.decode(raw).id in wanted],
        [raw for raw in lists.annotations if annotation.decode(raw).image_id in wanted],
        lists.categories,
    )
    with whole(target) as file:
        file.write_bytes(msgspec.json.encode(kept))
