"""Numbers that are not finite, put into one step of whole runs at many places.

python -m tests.stress.nonfinite [--only WORDS]

That step must change no parameter, buffer or average, and nothing that optimiser and balancer remember. By
the next line of the log training must have stopped with an error that names the head, where it is a head's,
and the images; all that is on the disk must be finite; and resumed, without the fault, the run must end with
the bits of one that had none. With `training.nonfinite=skip` it must go on to its end and count one step.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.commands import helpers
from tests.conftest import write_tiny_coco
from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import workplace
from tests.training.narrow import narrow_trunk
from tests.training.outcomes import outcome
from tests.training.test_numerics import equal, state_of
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import NumericsError
from vision_mtl.heads.classification import ClassificationHead
from vision_mtl.heads.fcos import FcosHead
from vision_mtl.heads.multilabel import MultilabelHead
from vision_mtl.heads.regression import RegressionHead
from vision_mtl.structures import Batch
from vision_mtl.training import engine
from vision_mtl.training.checkpoint import load_checkpoint
from vision_mtl.training.run import LAST, Run, Step

NAN, INF = math.nan, math.inf
HEADS = """
  objects:  {type: fcos, depth: 1}
  kind:     {type: classification, source: attribute, field: kind, dropout: 0.3}
  presence: {type: multilabel, source: boxes}
  count:    {type: regression, source: count}
"""
TWICE = ("data.train.0.repeat=2",)  # an epoch shows every image twice
LOG_EVERY, EPOCH, STEPS = 3, 4, 12  # in steps of two batches of two images
TRAINING = (
    f"{{epochs: 3, warmup_steps: 2, log_every: {LOG_EVERY}, conflict_every: 2, accumulate: 2, "
    "precision: fp32, clip: 1.0, ema: 0.9}"
)

# Puts the fault into whatever runs while the context is open.
Fault = Callable[[Run], contextlib.AbstractContextManager[Any]]


def in_loss(head: type, value: float, part: int | None = None) -> Fault:
    """Make a head's losses `value`, in every accumulated batch or only in number `part`."""

    def fault(run: Run) -> contextlib.AbstractContextManager[Any]:
        loss, calls = head.loss, 0  # type: ignore[attr-defined]

        def wrong(self: Any, *arguments: Any) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            terms = loss(self, *arguments)
            hit = part is None or calls == part + 1
            return {name: term * value if hit else term for name, term in terms.items()}

        return mock.patch.object(head, "loss", wrong)

    return fault


def in_output(module: str, value: float) -> Fault:
    """Make one number of what a layer puts out `value`."""

    @contextmanager
    def fault(run: Run) -> Iterator[None]:
        def wrong(layer: Any, inputs: Any, output: Tensor) -> Tensor:
            place = torch.zeros_like(output, dtype=torch.bool)
            place[(0,) * output.dim()] = True
            return output.masked_fill(place, value)

        with run.model.get_submodule(module).register_forward_hook(wrong):
            yield

    return fault


def in_gradient(parameter: str, change: Callable[[Tensor], Tensor]) -> Fault:
    """Change the gradient of a parameter."""

    @contextmanager
    def fault(run: Run) -> Iterator[None]:
        with run.model.get_parameter(parameter).register_hook(change):
            yield

    return fault


@dataclass(frozen=True)
class Place:
    """Where and when something is not finite.

    Attributes:
        fault: puts it there.
        says: words of the error beside the images.
        step: the step that it happens in, from 0.
        parts: the accumulated batches whose images are named.
        settings: `key=value` changes to the config.
    """

    fault: Fault
    says: str
    step: int = EPOCH + 1
    parts: Sequence[int] = (0,)
    settings: tuple[str, ...] = ()


def full(value: float) -> Callable[[Tensor], Tensor]:
    return lambda gradient: torch.full_like(gradient, value)


BOTH = (0, 1)
PLACES: dict[str, Place] = {
    "a detection loss": Place(in_loss(FcosHead, NAN), "loss of objects"),
    "a classification loss": Place(in_loss(ClassificationHead, INF), "loss of kind"),
    "a multi-label loss": Place(in_loss(MultilabelHead, -INF), "loss of presence"),
    "a regression loss": Place(in_loss(RegressionHead, NAN), "loss of count"),
    "the second batch of a step": Place(in_loss(RegressionHead, INF, part=1), "loss of count", parts=(1,)),
    "a score of the detector": Place(
        in_output("heads.objects.classification_head.cls_logits", NAN), "loss of objects"
    ),
    "a logit": Place(in_output("heads.kind.pooled.logits", NAN), "loss of kind"),
    "an activation of the trunk": Place(
        in_output("trunk.body.maxpool", NAN), "loss of objects, kind, presence, count"
    ),
    "the gradient of the first convolution": Place(
        in_gradient("trunk.body.conv1.weight", full(NAN)), "gradient of the trunk", parts=BOTH
    ),
    "the gradient of the pyramid": Place(
        in_gradient("trunk.fpn.inner_blocks.0.0.weight", full(-INF)), "gradient of the trunk", parts=BOTH
    ),
    "the gradient of a head": Place(
        in_gradient("heads.kind.pooled.logits.weight", full(INF)), "gradient of the head kind", parts=BOTH
    ),
    "a gradient too large to square": Place(
        in_gradient("trunk.body.conv1.weight", full(1e38)), "gradient of the trunk", parts=BOTH
    ),
    "the first step": Place(in_loss(FcosHead, NAN), "loss of objects", step=0),
    "the last step": Place(in_loss(FcosHead, NAN), "loss of objects", step=STEPS - 1),
    "the step before a checkpoint": Place(
        in_loss(FcosHead, NAN), "loss of objects", settings=("training.save_steps=1",)
    ),
    "a step with learned weights of the losses": Place(
        in_loss(ClassificationHead, NAN), "loss of kind", settings=("balancing.method=uw",)
    ),
    "a step whose gradients are combined": Place(
        in_loss(ClassificationHead, NAN), "loss of kind", settings=("balancing.method=pcgrad",)
    ),
    "a step of SGD in bf16": Place(
        in_output("heads.count.pooled.logits", INF),
        "loss of count",
        settings=("training.optimizer=sgd", "training.lr=0.001", "training.precision=bf16"),
    ),
}


@dataclass
class Seen:
    """What was found about a run's steps.

    Attributes:
        wrong: what the poisoned step did, in words.
        images: image ids of each of its batches.
        steps: how many steps the run took.
    """

    wrong: list[str] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)
    steps: int = 0


def poisoning(place: Place, seen: Seen) -> Callable[..., Step]:
    """Return `optimizer_step` with the fault in one of its calls."""
    take = engine.optimizer_step

    def step(run: Run, batches: Sequence[Batch], compare: bool = False) -> Step:
        seen.steps = run.progress.step + 1
        if run.progress.step != place.step:
            return take(run, batches, compare)
        before = state_of(run)
        with place.fault(run):
            found = take(run, batches, compare)
        after = state_of(run)
        if not before["optimizer"] and not any(map(torch.any, tensors_in(after["optimizer"]))):
            after["optimizer"] = {}  # made in the first step, and zero as if it had not been
        seen.wrong += [f"it changed the {part}" for part in before if not equal(before[part], after[part])]
        seen.images = found.images
        return found

    return step


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)


def not_finite(value: Any, name: str = "") -> list[str]:
    """Return the names of what holds a number that is not finite, in nested plain types and tensors."""
    if isinstance(value, Tensor):
        return [] if not value.is_floating_point() or value.isfinite().all() else [name]
    if isinstance(value, dict):
        return [bad for key, part in value.items() for bad in not_finite(part, f"{name}.{key}")]
    if isinstance(value, (list, tuple)):
        return [bad for i, part in enumerate(value) for bad in not_finite(part, f"{name}.{i}")]
    return [name] if isinstance(value, float) and math.isnan(value) else []


def bad_files(run: Path) -> list[str]:
    """Return what a run folder holds that is not finite; in `recent`, losses of steps left out may be."""
    wrong = []
    for path in (run / "checkpoints").glob("*.pt"):
        state = load_checkpoint(path)
        state.pop("recent", None)
        wrong += not_finite(state, path.name)
    texts = [path.read_text() for path in (run / "metrics.jsonl", run / "metrics.json") if path.exists()]
    return wrong + [word for word in ("NaN", "Infinity") for text in texts if word in text]


def latest_stop(place: Place) -> int:
    """Return how many steps may have been taken when a run stops: to the next line of the log, or to the next
    checkpoint."""
    if place.settings == ("training.save_steps=1",):
        return place.step + 1
    line = (place.step // LOG_EVERY + 1) * LOG_EVERY
    return min(line, (place.step // EPOCH + 1) * EPOCH)


def train(config: str, settings: Sequence[str], run: Path, resume: bool = False) -> str:
    """Train; return the error by which numbers that are not finite ended it, empty for none."""
    try:
        train_from_config(config, [*TWICE, *settings], run, resume)
    except NumericsError as error:
        return str(error)
    return ""


def stops(place: Place, config: str, run: Path, whole: Path) -> list[str]:
    """Train with `training.nonfinite=stop`, then resume without the fault; return what is wrong."""
    seen = Seen()
    with mock.patch.object(engine, "optimizer_step", poisoning(place, seen)):
        message = train(config, place.settings, run)
    images = list(chain(*(seen.images[part] for part in place.parts))) if seen.images else []
    wrong = [*seen.wrong, *bad_files(run)]
    if seen.steps != latest_stop(place):
        wrong.append(f"stopped after {seen.steps} steps in place of {latest_stop(place)}")
    wrong += [
        f"the error does not say {words!r}: {message}"
        for words in (place.says, f"on images {images}", f"at step {place.step}")
        if words not in message
    ]
    again = train(config, place.settings, run, resume=True)
    same = not again and outcome(run) == outcome(whole)
    return wrong if same else [*wrong, f"resumed, it does not end as a run without the fault {again}"]


def skips(place: Place, config: str, run: Path) -> list[str]:
    """Train with `training.nonfinite=skip`; return what is wrong."""
    seen = Seen()
    with mock.patch.object(engine, "optimizer_step", poisoning(place, seen)):
        message = train(config, [*place.settings, "training.nonfinite=skip"], run)
    wrong = [*seen.wrong, *bad_files(run)]
    if message:
        return [*wrong, f"did not go on: {message}"]
    progress = load_checkpoint(run / LAST)["progress"]
    if (progress["step"], progress["left_out"]) != (STEPS, 1):
        wrong.append(f"{progress['left_out']} steps left out of {progress['step']}")
    return wrong


def inject(names: Sequence[str] = tuple(PLACES), file: Path | None = None) -> int:
    """Train with a fault at each place; return the exit code of the command."""
    tally = Tally(file)
    wholes: dict[tuple[str, ...], Path] = {}
    with workplace() as place, narrow_trunk(), contextlib.redirect_stdout(io.StringIO()):
        root = write_tiny_coco(place / "tiny").root
        config = helpers.write_config(place, root, HEADS, "balancing: {method: famo}", training=TRAINING)
        for number, name in enumerate(names):
            tally.progress(number, len(names))
            settings = PLACES[name].settings
            if settings not in wholes:
                wholes[settings] = place / f"whole{number}"
                assert not train(config, settings, wholes[settings])
            wrong = stops(PLACES[name], config, place / f"stop{number}", wholes[settings])
            wrong += skips(PLACES[name], config, place / f"skip{number}")
            tally.add("wrong" if wrong else "right", json.dumps([name, *wrong]) if wrong else None)
    right = tally.counts["right"]
    return tally.finish(
        f"not finite at {len(names)} places: at {right} nothing was changed or saved by it, training stopped "
        "by the next line of the log, named head and images, and ended bit-identical once resumed",
        places=len(names),
    )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--only", metavar="WORDS", default="", help="places whose name holds these words")
    arguments = parser.parse_args()
    return inject([name for name in PLACES if arguments.only in name], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
