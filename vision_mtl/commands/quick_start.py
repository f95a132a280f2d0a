"""`tools/train.py --data DIR`: a folder to a config, written out with its reasons, and to a trained run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vision_mtl.commands.quick_start_heads import Question, propose_heads, unasked
from vision_mtl.commands.quick_start_rules import Facts, choose_settings
from vision_mtl.commands.shared import choose_device
from vision_mtl.commands.train import choose_folder, train_from_config
from vision_mtl.config import Config, apply_override, config_from_tree
from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.layout import Layout, find_layout, path_in
from vision_mtl.data.splitting import choose_validation, source_name, write_part
from vision_mtl.errors import ConfigError, DataError
from vision_mtl.files import whole
from vision_mtl.models.pretrained import weights_are_here
from vision_mtl.training.log import start_logging

SHARE = 0.2  # of the images, for validation where the data set has no split of its own
SPLIT = "split"  # folder of its files in the run folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """A config and its reasons.

    Attributes:
        tree: the config, with what was given on the command line.
        notes: `part.key` -> why it is so.
        files: split -> ids of the images that go into a file of their own; empty where the data set has
            validation images.
        annotations: the file that they are of.
    """

    tree: dict[str, Any]
    notes: dict[str, str]
    files: dict[str, list[int]]
    annotations: Path


def train_from_folder(
    data: Path,
    annotations: Sequence[Path],
    images: Path | None,
    labels: Sequence[str],
    overrides: Sequence[str],
    output: Path | None,
) -> dict[str, Any]:
    """Train as `tools/train.py --data` does; return the best metrics.

    The run folder has the config as `<name of the data set>.yaml`, for editing and training again, and the
    files of the split in `split/` where one had to be made. The data set is only read.

    Args:
        data: the folder of the data set.
        annotations: its COCO JSON files; empty to look for them.
        images: the folder of its images; None to look for it.
        labels: `FILE:column` or `attribute:field`, a head each.
        overrides: `key=value` changes to what is chosen.
        output: run folder; None for the next free one in `runs/`.

    Raises:
        VisionMTLError: data or settings that cannot be used; nothing is left behind then.
        Interrupted: SIGTERM or SIGINT came; the run can be resumed.
    """
    layout = find_layout(data, annotations, images)
    name = run_name(data)
    folder = choose_folder(name, output, resume=False)
    proposal = propose(layout, labels, overrides, folder)
    config = config_from_tree(proposal.tree, f"--data '{data}' with {' '.join(overrides) or 'no changes'}")
    path = folder / f"{name}.yaml"
    start_logging()
    with undone_unless_started(folder, [path, *(folder / SPLIT / f"{s}.json" for s in proposal.files)]):
        write_proposal(proposal, path)
        logger.info("%s", summary(config, proposal.notes))
        index = read_annotations(layout.parts["train"].annotations)
        for hint in filter(None, (_ignored(layout), unasked(index, data, labels))):
            logger.info("%s", hint)
        logger.info("every choice, its reason, and the file to edit and train again: %s", path)
        return train_from_config(str(path), [], folder)


def propose(layout: Layout, labels: Sequence[str], overrides: Sequence[str], folder: Path) -> Proposal:
    """Return the config for a data set; nothing is written.

    Args:
        layout: its files.
        labels: as for `train_from_folder`.
        overrides: applied last.
        folder: of the run, where a split that has to be made will lie.

    Raises:
        VisionMTLError: data or overrides that cannot be used.
    """
    train = layout.parts["train"]
    index = read_annotations(train.annotations)
    questions = propose_heads(index, layout.root, labels)
    files: dict[str, list[int]] = {}
    images = np.arange(len(index))
    if "val" not in layout.parts:
        held_out = split_images(index, questions)
        images = np.flatnonzero(~held_out)
        for split, chosen in (("train", ~held_out), ("val", held_out)):
            files[split] = index.image_ids[chosen].tolist()
    wanted: dict[str, Any] = {}
    for override in overrides:
        apply_override(wanted, override)
    tree, notes = choose_settings(gather_facts(index, images, wanted))
    sources, notes_of_sources = _sources(layout, files, folder, len(index))
    tree["data"] = {"root": str(layout.root), **sources, **tree["data"]}
    notes |= notes_of_sources
    parts = {"data": tree["data"], "trunk": tree["trunk"], "heads": {}}
    for question in questions:
        parts["heads"][question.name] = question.head
        notes[f"heads.{question.name}"] = question.note
    tree = {**parts, **{key: value for key, value in tree.items() if key not in parts}}
    for override in overrides:
        apply_override(tree, override)
        way = override.partition("=")[0].strip().split(".")
        key = ".".join(way[:2])
        before = notes.get(key) if len(way) > 2 else None  # else nothing of what was chosen is left
        notes[key] = "; ".join(filter(None, [before, f"given: {override}"]))
    return Proposal(tree, notes, files, train.annotations)


def _sources(
    layout: Layout, files: dict[str, list[int]], folder: Path, total: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the config's data sets, and where they are from."""
    sources: dict[str, Any] = {}
    notes = {}
    for split, part in layout.parts.items():
        sources[split] = [
            {
                "images": path_in(layout.root, part.images),
                "annotations": path_in(layout.root, part.annotations),
            }
        ]
        notes[f"data.{split}"] = "found by its name" if len(layout.parts) > 1 else "the one annotation file"
    for split, ids in files.items():
        place = str((folder / SPLIT / f"{split}.json").resolve())
        sources[split] = [{**sources["train"][0], "annotations": place}]
        notes[f"data.{split}"] = (
            f"{len(ids)} of the {total} images of {layout.parts['train'].annotations.name}, which has no "
            "split of its own"
        )
    return {split: sources[split] for split in ("train", "val", "test") if split in sources}, notes


def split_images(index: AnnotationIndex, questions: Sequence[Question]) -> np.ndarray:
    """Return which images are for validation, (I,) bool: the same ones whenever the data are the same.

    Copies of one image, as Roboflow exports them, stay together, and each class is on both sides where it is
    in images enough.

    Raises:
        DataError: fewer than two images.
    """
    groups = [source_name(index.file_name(i)) for i in range(len(index))]
    labels = [{label for question in questions for label in question.labels[i]} for i in range(len(index))]
    try:
        return choose_validation(groups, labels, SHARE)
    except ValueError as error:
        raise DataError(
            f"{index.path}: {error}: it lists {len(index)} images, all of one source; two are needed at least"
        ) from error


def gather_facts(index: AnnotationIndex, images: np.ndarray, wanted: Mapping[str, Any]) -> Facts:
    """Return what the rules rest on.

    Args:
        index: the annotations that are trained on.
        images: (I,) positions of those that are for training.
        wanted: the tree of the command line's overrides: a device or number of epochs decides other choices.

    Raises:
        ConfigError: cuda was asked for and is not there.
    """
    rows, objects = index.all_objects()
    longer = index.sizes[rows].max(axis=1) if len(rows) else np.zeros(0)
    extent = objects.boxes[:, 2:] - objects.boxes[:, :2]
    training = wanted.get("training")
    given = training if isinstance(training, dict) else {}
    epochs = given.get("epochs")
    return Facts(
        images=len(images),
        sizes=index.sizes[images],
        box_sides=np.sqrt(extent.prod(axis=1)) / longer,
        gpu=choose_device(str(given.get("device", "auto"))).type == "cuda",
        has_weights=weights_are_here,
        epochs=epochs if isinstance(epochs, int) and epochs > 0 else None,
    )


def write_proposal(proposal: Proposal, path: Path) -> None:
    """Write the config, and the files of its split beside it in `split/`.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    try:
        for split, ids in proposal.files.items():
            write_part(proposal.annotations, ids, path.parent / SPLIT / f"{split}.json")
        with whole(path) as file:
            file.write_text(render(proposal), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output '{path.parent}': cannot write: {error}") from error


def render(proposal: Proposal) -> str:
    """Return the config as YAML, a line of comment above each choice."""
    lines = [
        "# Chosen by tools/train.py --data. Edit what you like, and train again with this file as CONFIG;",
        "# what is left out has its default, which config.yaml beside it shows.",
    ]
    for part, keys in proposal.tree.items():
        if not isinstance(keys, dict):
            lines += [f"# {proposal.notes[part]}"] if part in proposal.notes else []
            lines.append(f"{part}: {_flow(keys)}")
            continue
        lines.append(f"{part}:")
        for key, value in keys.items():
            note = proposal.notes.get(f"{part}.{key}")
            lines += [f"  # {' '.join(note.split())}"] if note else []
            if isinstance(value, list) and len(value) > 1:
                lines += [f"  {_flow(key)}:", *(f"    - {_flow(item)}" for item in value)]
            else:
                lines.append(f"  {_flow(key)}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("...\n").strip()


def summary(config: Config, notes: Mapping[str, str]) -> str:
    """Return the most important choices, a line each."""
    data = config.data
    lines = [
        f"{split}: {source.annotations}, images in {source.images} ({notes.get(f'data.{split}', 'given')})"
        for split in ("train", "val", "test")
        for source in getattr(data, split)
    ]
    for name, head in config.heads.items():
        kind = head.__struct_config__.tag
        lines.append(f"head {name}: {kind} ({notes.get(f'heads.{name}', 'given')})")
    origin = config.weights or f"{config.trunk.weights or 'random'} weights"
    lines.append(
        f"{config.trunk.name} from {origin}, input {data.resize.shorter} by {data.resize.longer}, batches of "
        f"{data.batch_size}, {config.training.epochs} epochs"
    )
    return "\n".join(lines)


def _ignored(layout: Layout) -> str:
    names = ", ".join(str(path.name) for path in layout.ignored[:6])
    return f"not used: {names}" if names else ""


def run_name(data: Path) -> str:
    """Return the name of a data set's runs and config: its folder's, in letters that a file name may have."""
    name = re.sub(r"[^\w-]+", "_", data.resolve().name).strip("_")
    return "data" if name in ("", "config") else name


@contextmanager
def undone_unless_started(folder: Path, files: Sequence[Path]) -> Iterator[None]:
    """Take back `files`, and the folders that they leave empty, after an error before the run has begun."""
    try:
        yield
    except BaseException:
        if not (folder / "config.yaml").exists():
            for path in files:
                path.unlink(missing_ok=True)
            for empty in (folder / SPLIT, folder):
                with suppress(OSError):  # not there, or something else is in it
                    empty.rmdir()
        raise
