"""How a model is trained and judged."""

from __future__ import annotations

from typing import Literal

import msgspec

from vision_mtl.errors import ConfigError
from vision_mtl.models.precision import Precision


class TrainingConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The optimiser, its schedule, and how long.

    Attributes:
        epochs: passes over the training data.
        max_steps: optimiser steps after which training ends even within an epoch; null for no limit.
        optimizer: `adamw` or `sgd` (Nesterov momentum).
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: on weights; norms and biases have none.
        trunk_lr_factor: factor on the learning rate of the trunk's ResNet.
        pyramid_lr_factor: factor on that of its pyramid, which has no weights of ImageNet; null for the
            ResNet's. Heads have their own `lr_factor`.
        heads_first_epochs: epochs at the start in which the trunk keeps its weights and statistics, so that
            fresh heads do not spoil pretrained features.
        warmup_steps: steps over which the learning rate rises from 0; at most a tenth of all steps.
        schedule: `cosine` to a hundredth of the peak, or `steps`: a tenth at each of `milestones`.
        milestones: shares of all steps, for `steps`.
        accumulate: batches whose gradients make one optimiser step.
        clip: largest gradient norm; 0 for no clipping.
        ema: decay of the averaged weights that are evaluated; 0 evaluates the raw ones.
        precision: `bf16`, `fp32`, or `auto`: bf16 where the processor or GPU computes in it.
        seed: decides weights, order and augmentation.
        patience: evaluations without a new best after which training stops early; null for never.
        log_every: optimiser steps between lines of `metrics.jsonl`.
        device: `auto`, `cpu` or `cuda`.
    """

    epochs: int = 12
    max_steps: int | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.05
    trunk_lr_factor: float = 1.0
    pyramid_lr_factor: float | None = None
    heads_first_epochs: int = 0
    warmup_steps: int = 200
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[float, ...] = (0.67, 0.92)
    accumulate: int = 1
    clip: float = 10.0
    ema: float = 0.998
    precision: Precision = "auto"
    seed: int = 0
    patience: int | None = None
    log_every: int = 20
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self) -> None:
        """Raise ConfigError for values outside their range."""
        limits = {"epochs": 1, "accumulate": 1, "log_every": 1, "warmup_steps": 0, "seed": 0}
        limits |= {"clip": 0, "weight_decay": 0, "momentum": 0, "trunk_lr_factor": 0}
        limits |= {"heads_first_epochs": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ConfigError(f"training.{name}: found {getattr(self, name)}, expected at least {least}")
        if self.pyramid_lr_factor is not None and self.pyramid_lr_factor < 0:
            raise ConfigError(
                f"training.pyramid_lr_factor: found {self.pyramid_lr_factor}, expected at least 0, or null"
            )
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"training.max_steps: found {self.max_steps}, expected at least 1, or null")
        if not self.lr > 0:
            raise ConfigError(f"training.lr: found {self.lr}, expected more than 0")
        if not all(0 < share < 1 for share in self.milestones):
            raise ConfigError(
                f"training.milestones: found {self.milestones}, expected shares between 0 and 1"
            )
        if not 0 <= self.ema < 1:
            raise ConfigError(f"training.ema: found {self.ema}, expected 0 <= ema < 1")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"training.patience: found {self.patience}, expected at least 1, or null")


class EvaluationConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a model is judged.

    Attributes:
        every: epochs between evaluations on `data.val`; the last epoch is always evaluated.
        best: `<head>.<metric>` that decides which weights `best.pt` holds; null for the mean of the
            heads' headline metrics (detection and multi-label mAP, accuracy, R2).
        backend: what computes mAP: `pycocotools`, or `hotcoco` (extra `fast`): equal numbers, faster.
    """

    every: int = 1
    best: str | None = None
    backend: Literal["pycocotools", "hotcoco"] = "pycocotools"


class BalancingConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How the heads' losses become one.

    Attributes:
        method: `fixed` adds them with the heads' weights; `uw` also learns a factor for each from its
            uncertainty (Kendall et al., CVPR 2018).
    """

    method: Literal["fixed", "uw"] = "fixed"
