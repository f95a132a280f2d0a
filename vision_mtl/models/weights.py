"""What a network starts from: published weights, a file of torchvision, or a checkpoint of this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vision_mtl.errors import CheckpointError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.class_slots import answers, layout_of, match_classes, read_by, with_rows
from vision_mtl.models.freezing import check_filled
from vision_mtl.models.links import LINK_TENSORS, evidence_of
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel
from vision_mtl.models.pretrained import load_trunk_weights
from vision_mtl.models.published import unlike
from vision_mtl.models.weight_files import WeightsFile, is_counter, read_weights


@dataclass
class WeightsReport:
    """What became of every tensor of the network and of the file it was loaded from.

    Counters of batches, which are no weights, are left out.

    Attributes:
        source: the setting that names the file; None where nothing was loaded.
        loaded: names of the network's tensors that were taken from the file.
        fresh: names of those that keep their random initialisation.
        skipped: names of the file's tensors that were not used.
        classes: head -> our class and the file's slot that its rows were taken from, or None for fresh.
        notes: what else a person should know.
    """

    source: str | None
    loaded: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    classes: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def whole_heads(self) -> list[str]:
        """Return the heads that were loaded to the last tensor and class.

        A link to another head that the file's heads have not does nothing yet: it does not count.
        """
        links = {key for key in self.fresh if key.endswith(LINK_TENSORS)} - set(self.skipped)
        fresh = [key for key in self.fresh if key.startswith("heads.") and key not in links]
        partly = {key.split(".")[1] for key in fresh}
        partly |= {name for name, rows in self.classes.items() if any(slot is None for _, slot in rows)}
        heads = {key.split(".")[1]: None for key in self.loaded if key.startswith("heads.")}
        return [name for name in heads if name not in partly]


def load_weights(
    model: MultiTaskModel, config: ModelConfig, labels: Mapping[str, LabelInfo]
) -> WeightsReport:
    """Fill the network with `config.weights`, or its ResNet with `config.trunk.weights`, if one is given.

    The whole trunk must fit. What the file has for a head is taken where type, name and shape agree, for an
    output layer also those of what it reads. Classes are found by id and name. All else stays fresh, and
    nothing changes if there is an error.

    Args:
        model: a fresh network.
        config: what it was built from.
        labels: head name -> what it answers with.

    Raises:
        ConfigError: weights that torchvision has not published.
        CheckpointError: no such file, no network, a file of something else, another trunk, or a frozen head
            that the file does not fill.
    """
    if config.weights is None:
        return _load_trunk(model, config)
    detector = next((name for name, head in config.heads.items() if head.label_source() is None), None)
    file = read_weights(config.weights, detector, labels[detector] if detector is not None else LabelInfo())
    _check_trunk(model, config, file)
    report = WeightsReport(f"weights={config.weights}", notes=list(file.notes))
    heads = _alike(config, file, report)
    classes = {name: match_classes(labels[name], file.heads[name].labels) for name in heads}
    own, taken, misread = model.state_dict(), {}, _misread(config, file, classes)
    for key in own:
        value = None if key in misread else _value(key, own, file, classes)
        if value is not None:
            taken[key] = value
        if not is_counter(key):
            (report.fresh if value is None else report.loaded).append(key)
    report.skipped = [key for key in file.state if key not in taken and not is_counter(key)]
    for name in heads:
        rows = {key for key in own if key.startswith(f"heads.{name}.") and layout_of(key)}
        slots = classes[name] if rows <= taken.keys() else [None] * len(classes[name])
        report.classes[name] = [
            (ours, None if slot is None else _slot_name(file.heads[name].labels, slot))
            for ours, slot in zip(answers(labels[name]), slots, strict=True)
        ]
    check_filled(config.trunk, config.heads, config.weights, report.whole_heads(), report.fresh)
    model.load_state_dict({**own, **taken})
    return report


def _load_trunk(model: MultiTaskModel, config: ModelConfig) -> WeightsReport:
    skipped = load_trunk_weights(model.trunk, config.trunk)
    source = f"trunk.weights={config.trunk.weights}" if config.trunk.weights else None
    report = WeightsReport(source, skipped=skipped)
    for key in model.state_dict():
        loaded = config.trunk.weights is not None and key.startswith("trunk.body.")
        if not is_counter(key):
            (report.loaded if loaded else report.fresh).append(key)
    return report


def _check_trunk(model: MultiTaskModel, config: ModelConfig, file: WeightsFile) -> None:
    """Raise CheckpointError unless the file has the whole trunk and no more, and the config its settings."""
    ours = {key: v for key, v in model.state_dict().items() if _is_trunks(key)}
    theirs = {key: v for key, v in file.state.items() if _is_trunks(key)}
    if not all(any(_is_pyramids(key) for key in side) for side in (ours, theirs)):
        # A network of label heads has no pyramid: the other one's is left out, or stays fresh.
        ours, theirs = ({k: v for k, v in side.items() if not _is_pyramids(k)} for side in (ours, theirs))
    misfits = {
        "missing": ours.keys() - theirs.keys(),
        "unknown": theirs.keys() - ours.keys(),
        "of another shape": {k for k in ours.keys() & theirs.keys() if ours[k].shape != theirs[k].shape},
    }
    counts = [f"{len(keys)} {what} {sorted(keys)[:3]}" for what, keys in misfits.items() if keys]
    settings = unlike(config.trunk, file.trunk, "trunk")
    if not counts and not settings:
        return
    example = (
        f"take the trunk of {file.example}" if file.example else "take the trunk that it was trained with"
    )
    raise CheckpointError(
        f"weights: '{config.weights}' has another trunk"
        + (f", with {', '.join(counts)}" if counts else "")
        + f": {', '.join(settings) or example}"
    )


def _is_trunks(key: str) -> bool:
    return key.startswith("trunk.") and not is_counter(key)


def _is_pyramids(key: str) -> bool:
    return key.startswith("trunk.fpn.")


def _misread(config: ModelConfig, file: WeightsFile, classes: Mapping[str, Sequence[int | None]]) -> set[str]:
    """Return the names of the layers of evidence whose rows and columns are not the file's classes, in order.

    Args:
        config: of our network.
        file: that has the heads in `classes`.
        classes: head -> for each of our classes its position in the file.
    """
    counts = {name: len(answers(file.heads[name].labels)) for name in classes}
    same = {name for name, rows in classes.items() if list(rows) == list(range(counts[name]))}
    sources = {name: evidence_of(head) for name, head in config.heads.items()}
    return {
        f"heads.{name}.from_detections.linear.weight"
        for name, source in sources.items()
        if not {name, source} <= same
    }


def _alike(config: ModelConfig, file: WeightsFile, report: WeightsReport) -> list[str]:
    """Return the heads that the file has, with the same type; note the others, and settings that differ."""
    names = []
    for name, head in config.heads.items():
        if name not in file.heads:
            continue
        theirs = file.heads[name]
        kind = str(head.__struct_config__.tag)
        if kind != theirs.kind:
            report.notes.append(f"head '{name}' is {kind} and the file's is {theirs.kind}: it starts fresh")
            continue
        names.append(name)
        if lines := unlike(head, theirs.settings, f"heads.{name}"):
            report.notes.append(f"to get the answers that the file was trained for, {', '.join(lines)}")
    return names


def _value(
    key: str, own: Mapping[str, Tensor], file: WeightsFile, classes: Mapping[str, Sequence[int | None]]
) -> Tensor | None:
    """Return what the file has for our tensor `key`, None where that is nothing that fits.

    Args:
        key: its name.
        own: all of our tensors, fresh.
        file: whose trunk fits.
        classes: head -> for each of our classes its position in the file; only heads of the file's type.
    """
    theirs = file.state.get(key)
    part, name, *_ = key.split(".")
    if theirs is None or (part == "heads" and name not in classes):
        return None
    if part == "heads" and (start := read_by(key)) and _shapes(own, start) != _shapes(file.state, start):
        return None
    if layout := layout_of(key):
        return with_rows(own[key], theirs, layout, classes[name], len(answers(file.heads[name].labels)))
    return theirs if theirs.shape == own[key].shape else None


def _shapes(state: Mapping[str, Tensor], start: str) -> dict[str, torch.Size]:
    """Return the shapes of the tensors whose names begin with `start`."""
    return {k: v.shape for k, v in state.items() if k.startswith(start) and not is_counter(k)}


def _slot_name(labels: LabelInfo, position: int) -> str:
    """Return a file's class as people know it: its id, where there is one, and its name."""
    name = answers(labels)[position]
    return f"{labels.ids[position]} {name}" if labels.ids else name
