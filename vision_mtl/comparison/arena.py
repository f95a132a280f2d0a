"""What a command line leads to: the plan, the recipe and the data, all checked before anything is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from vision_mtl.commands.train import open_data, training_loader
from vision_mtl.comparison.costs import Bench, open_bench
from vision_mtl.comparison.plan import Headline, Plan
from vision_mtl.comparison.runs import Recipe, as_overrides, head_settings
from vision_mtl.config import Config, load_config, to_tree
from vision_mtl.data.dataset import Source
from vision_mtl.data.sources import open_sources
from vision_mtl.errors import ConfigError, nearest
from vision_mtl.models.multitask import build_model
from vision_mtl.models.vocabulary import label_sources
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.config import BalancingConfig

ERRORS = ("MAE", "RMSE")  # metrics of which less is better
INSTEAD = {"R2": "MAE"}  # R2 may be 0 or less, and a share of that says nothing
# What a trial decides, and what changes no result.
SWEPT = {
    "balancing": ("method",),
    "data": ("root", "workers", "prefetch"),
    "evaluation": ("every", "best", "report"),
    "training": ("lr", "seed", "epochs", "max_steps", "log_every", "patience"),
}


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        config: YAML file.
        overrides: `key=value` changes to it.
        seeds: full runs of every model.
        methods: ways of balancing the joint model; () for the config's.
        combine: also combine single-task models.
        short_share: steps of a short run, as a share of the config's.
        factors: on the config's learning rate, that short runs try.
        output: folder of all runs, the plot and the page.
        results: the JSON file; None for `comparison.json` in the folder.
        command: as it was typed, for the record.
    """

    config: str
    overrides: tuple[str, ...]
    seeds: int
    methods: tuple[str, ...]
    combine: bool
    short_share: float
    factors: tuple[float, ...]
    output: Path
    results: Path | None
    command: str


@dataclass(frozen=True)
class Arena:
    """What a request leads to.

    Attributes:
        plan: what is compared.
        recipe: how a trial is trained.
        bench: what the networks' costs are measured with.
        tree: what must be the same for all runs in a results file.
    """

    plan: Plan
    recipe: Recipe
    bench: Bench
    tree: dict[str, Any]


def open_arena(request: Request) -> Arena:
    """Open config and data, and check all that can be wrong.

    Raises:
        VisionMTLError: naming what was found and what was expected.
    """
    check_numbers(request)
    config = load_config(request.config, request.overrides)
    methods = request.methods or (config.balancing.method,)
    check_heads(config)
    check_methods(config, methods)
    train, val, labels = open_data(config)
    epoch_steps = count_epoch_steps(request, config, train)
    epoch, training = epoch_steps[tuple(config.heads)], config.training
    steps = min(epoch * training.epochs, training.max_steps or 2**62)
    heads = build_model(config.model(), labels).named_heads()
    plan = Plan(
        headlines={name: headline_of(head.headline) for name, head in heads.items()},
        detector=next((name for name, head in config.heads.items() if head.label_source() is None), None),
        methods=tuple(methods),
        lr=training.lr,
        factors=request.factors,
        steps=steps,
        short_steps=max(1, round(steps * request.short_share)),
        seeds=request.seeds,
        combine=request.combine,
    )
    recipe = Recipe(request.config, request.overrides, config, steps, epoch_steps)
    return Arena(plan, recipe, open_bench(config, train, val), lasting_tree(config, [*train, val]))


def count_epoch_steps(
    request: Request, config: Config, train: Sequence[Source]
) -> dict[tuple[str, ...], int]:
    """Return the optimiser steps of an epoch: of all heads, and of each head by itself.

    Raises:
        VisionMTLError: a head that cannot be trained and judged by itself.
    """
    counts = {tuple(config.heads): _epoch_steps(config, train)}
    for name in config.heads:
        settings = head_settings(config, (name,))
        own = load_config(request.config, [*request.overrides, *as_overrides(settings)])
        for split in ("train", "val"):
            if not getattr(own.data, split):
                raise ConfigError(f"data.{split}: no source supervises heads.{name}; expected one or more")
        same = own.data.train == config.data.train
        opened = train if same else open_sources(own.data, "train", label_sources(own.heads))
        counts[(name,)] = _epoch_steps(own, opened)
    return counts


def _epoch_steps(config: Config, train: Sequence[Source]) -> int:
    _, batches = training_loader(config, train)
    return -(-len(batches) // config.training.accumulate)


def check_numbers(request: Request) -> None:
    """Raise ConfigError for arguments outside their range."""
    if request.seeds < 1:
        raise ConfigError(f"--seeds: found {request.seeds}, expected at least 1")
    if not 0 < request.short_share <= 1:
        raise ConfigError(f"--short-share: found {request.short_share:g}, expected above 0, at most 1")
    factors = request.factors
    if not factors or len(set(factors)) < len(factors) or not all(0 < f < math.inf for f in factors):
        shown = ",".join(f"{factor:g}" for factor in factors)
        raise ConfigError(f"--lr-factors: found '{shown}', expected different numbers above 0, e.g. 0.5,1,2")


def check_heads(config: Config) -> None:
    """Raise ConfigError unless there are two or more heads, all of which are trained."""
    if len(config.heads) < 2:
        raise ConfigError(
            f"heads: found only {', '.join(config.heads)}, expected two or more: there is nothing to compare"
        )
    if frozen := [name for name, head in config.heads.items() if head.frozen]:
        raise ConfigError(
            f"heads.{frozen[0]}.frozen: found true, expected false: what is not trained cannot be "
            "compared; leave the head out, or train it"
        )


def check_methods(config: Config, methods: Sequence[str]) -> None:
    """Raise ConfigError for a method that is not known, is named twice, or lacks a package."""
    (field,) = (field for field in msgspec.structs.fields(BalancingConfig) if field.name == "method")
    known = get_args(field.type)
    weights = {name: head.weight for name, head in config.heads.items()}
    for method in methods:
        if method not in known:
            raise ConfigError(
                f"--methods: found '{method}'{nearest(method, known) or '.'} Known: {', '.join(known)}"
            )
        Balancer(msgspec.structs.replace(config.balancing, method=method), weights)  # finds missing packages
    if len(set(methods)) < len(methods):
        raise ConfigError(f"--methods: found '{','.join(methods)}', expected each of them once")


def headline_of(metric: str) -> Headline:
    """Return what stands for a head in Δm: its headline metric, or one of which a relative change means
    something."""
    metric = INSTEAD.get(metric, metric)
    return Headline(metric, metric in ERRORS)


def lasting_tree(config: Config, sources: Sequence[Source]) -> dict[str, Any]:
    """Return the resolved config without `SWEPT`, and with the fingerprints of the annotations."""
    tree = to_tree(config)
    for part, keys in SWEPT.items():
        tree[part] = {key: value for key, value in tree[part].items() if key not in keys}
    tree["data"]["fingerprints"] = [source.index.fingerprint for source in sources]
    return tree
