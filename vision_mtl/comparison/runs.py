"""A trial to a finished run of `tools/train.py`, in a folder of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vision_mtl.commands.train import train_from_config
from vision_mtl.comparison.results import Outcome, Trial
from vision_mtl.config import Config, to_tree
from vision_mtl.errors import NumericsError
from vision_mtl.training.log import start_logging
from vision_mtl.training.run import BEST

NEVER = 1_000_000_000  # epochs between evaluations: the end is always evaluated, and only the end shall count
REFERENCES = ("context", "detections")  # settings of a head that name other heads


@dataclass(frozen=True)
class Recipe:
    """The config whose heads are compared.

    Attributes:
        path: YAML file.
        overrides: `key=value` changes to it.
        config: both, resolved.
        steps: optimiser steps of its whole training.
        epoch_steps: heads trained together -> optimiser steps of an epoch of the data that supervises them.
    """

    path: str
    overrides: tuple[str, ...]
    config: Config
    steps: int
    epoch_steps: Mapping[tuple[str, ...], int]


def head_settings(config: Config, heads: tuple[str, ...]) -> dict[str, Any]:
    """Return what leaves these heads in the config, as settings: key -> value.

    A head by itself reads no other head, and has only the data sources that supervise it.
    """
    tree = to_tree(config)
    if len(heads) == len(config.heads):
        return {"heads": tree["heads"], "evaluation.best": None}
    kept = {
        name: {key: None if key in REFERENCES else value for key, value in tree["heads"][name].items()}
        for name in heads
    }
    settings: dict[str, Any] = {"heads": kept, "evaluation.best": None}
    for split in ("train", "val", "test"):
        sources = tree["data"][split]
        own = [_for_heads(source, heads) for source in sources if _supervises(source, heads)]
        if own != sources:
            settings[f"data.{split}"] = own
    return settings


def _supervises(source: Mapping[str, Any], heads: tuple[str, ...]) -> bool:
    return source["heads"] is None or any(name in heads for name in source["heads"])


def _for_heads(source: Mapping[str, Any], heads: tuple[str, ...]) -> dict[str, Any]:
    named = source["heads"]
    return {**source, "heads": None if named is None else [name for name in named if name in heads]}


def trial_settings(recipe: Recipe, trial: Trial, weights: Path | None = None) -> dict[str, Any]:
    """Return what a trial sets in the config: key -> value.

    Nothing is chosen on the validation data on the way: all alike are judged once, at the end. A training of
    another length is the whole schedule, longer or shorter: what is counted in epochs follows.

    Args:
        recipe: the config.
        trial: what to run.
        weights: checkpoint to start from; None for what the config starts from.
    """
    settings = {
        **head_settings(recipe.config, trial.heads),
        "balancing.method": trial.method,
        "training.lr": trial.lr,
        "training.seed": trial.seed,
        "evaluation.every": NEVER,
        "evaluation.report": False,  # what compares the trials is a page of its own
    }
    epochs = recipe.steps / recipe.epoch_steps[tuple(recipe.config.heads)]
    own_epochs = trial.steps / recipe.epoch_steps[trial.heads]
    if own_epochs != epochs:
        factor = own_epochs / epochs
        settings |= {
            "training.epochs": math.ceil(own_epochs),
            "training.max_steps": trial.steps,
            "training.heads_first_epochs": round(recipe.config.training.heads_first_epochs * factor),
            "data.mix.last_epochs_without": round(recipe.config.data.mix.last_epochs_without * factor),
        }
    if weights is not None:
        settings |= {"weights": str(weights), "trunk.weights": None, "training.heads_first_epochs": 0}
    return settings


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return `key=value` for each setting as the command line has it: the value in YAML, on one line."""
    # In a list, since of a bare scalar YAML makes a document of two lines.
    values = {
        key: yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=math.inf).strip()[1:-1]
        for key, value in settings.items()
    }
    return [f"{key}={value}" for key, value in values.items()]


def run_trial(recipe: Recipe, output: Path, trial: Trial, weights: Path | None = None) -> Outcome:
    """Train, or go on with a run that was interrupted; numbers that are not finite are an outcome too.

    Raises:
        VisionMTLError: of any other kind.
    """
    folder = output / trial.name()
    resume = (folder / "config.yaml").exists()
    settings = trial_settings(recipe, trial, weights)
    overrides = [*recipe.overrides, *as_overrides(settings)]
    try:
        metrics = train_from_config(recipe.path, overrides, folder, resume)
    except NumericsError as error:
        return Outcome(trial, folder.name, {}, None, diverged=str(error))
    finally:
        start_logging()  # the log of the run is closed
    conflict = metrics.get("conflict") or {}
    return Outcome(
        trial, folder.name, metrics["heads"], metrics["training_seconds"], conflict=conflict.get("sentence")
    )


def checkpoint_of(output: Path, outcome: Outcome) -> Path:
    """Return the file of a finished run's weights."""
    return output / outcome.folder / BEST
