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
        nonfinite: what follows a step whose loss or gradient is not finite, which never changes anything:
            `stop` at the next line of the log, or `skip`: count it and go on.
        nonfinite_limit: steps left out in a run after which `skip` stops all the same.
        save_minutes: time between checkpoints, beside those at the end of every epoch; 0 for no others.
        save_steps: optimiser steps between checkpoints; 0 for no others.
        keep: how many of the last checkpoints to keep, beside the best.
        log_every: optimiser steps between lines of `metrics.jsonl`.
        conflict_every: optimiser steps between looks at whether the tasks pull the trunk the same way, each
            at the cost of a backward pass of the trunk per task; 0 for never.
        device: `auto`, `cpu` or `cuda`.
        compile: let torch.compile make trunk and heads faster, at the price of a minute or more at the first
            batch of each shape; on the CPU it needs a C++ compiler.
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
    nonfinite: Literal["stop", "skip"] = "stop"
    nonfinite_limit: int = 20
    save_minutes: float = 10.0
    save_steps: int = 0
    keep: int = 2
    log_every: int = 20
    conflict_every: int = 100
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False

    def check(self) -> None:
        """Raise ConfigError for values outside their range."""
        limits = {"epochs": 1, "accumulate": 1, "log_every": 1, "warmup_steps": 0, "seed": 0}
        limits |= {"clip": 0, "weight_decay": 0, "momentum": 0, "trunk_lr_factor": 0}
        limits |= {"heads_first_epochs": 0, "conflict_every": 0, "nonfinite_limit": 0}
        limits |= {"save_minutes": 0, "save_steps": 0, "keep": 1}
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
        report: write report.html and its figures after an evaluation and at the end of training.
    """

    every: int = 1
    best: str | None = None
    backend: Literal["pycocotools", "hotcoco"] = "pycocotools"
    report: bool = True


class BalancingConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How the heads' losses and gradients become one step. Only tasks with labels in the step take part.

    Attributes:
        method: `fixed` adds the losses with the heads' weights. The others take the losses times those
            weights. By the losses alone, at no cost: `uw` (uncertainty weighting, arXiv 1705.07115), `imtl_l`
            (Liu et al., ICLR 2021), `dwa` (arXiv 1803.10704), `geometric` (Chennupati et al., CVPRW 2019),
            `random` (arXiv 2111.10603), `stch` (arXiv 2402.19078), and `famo` (arXiv 2306.03792), which
            computes the losses once more after every step. By the gradients on the trunk, at one more
            backward pass of it per task: `mgda` (arXiv 1810.04650), `pcgrad` (arXiv 2001.06782), `cagrad`
            (arXiv 2110.14048), `imtl_g` (Liu et al., ICLR 2021), `aligned_mtl` (arXiv 2305.19000),
            `nash_mtl` (arXiv 2202.01017), `upgrad` (arXiv 2406.16232), `gradvac` (arXiv 2010.05874),
            `graddrop` (arXiv 2010.06808). `cagrad`, `nash_mtl` and `upgrad` need the extra `balancing`.
            With `training.accumulate`, methods by the losses other than `fixed`, `uw` and `imtl_l` keep the
            graphs of all accumulated batches in memory.
        dwa_temperature: of `dwa`; the larger, the more equal the weights.
        stch_mu: of `stch`; the smaller, the more the largest loss decides.
        famo_lr: learning rate of the weights of `famo`.
        cagrad_c: of `cagrad`; how far from the mean gradient the step may be, in shares of its length.
        gradvac_beta: of `gradvac`; how fast its target cosines follow what is seen.
    """

    method: Literal[
        "fixed",
        "uw",
        "imtl_l",
        "dwa",
        "famo",
        "geometric",
        "random",
        "stch",
        "mgda",
        "pcgrad",
        "cagrad",
        "imtl_g",
        "aligned_mtl",
        "nash_mtl",
        "upgrad",
        "gradvac",
        "graddrop",
    ] = "fixed"
    dwa_temperature: float = 2.0
    stch_mu: float = 1.0
    famo_lr: float = 0.025
    cagrad_c: float = 0.4
    gradvac_beta: float = 0.5

    def check(self) -> None:
        """Raise ConfigError for values outside their range."""
        for name in ("dwa_temperature", "stch_mu", "famo_lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"balancing.{name}: found {getattr(self, name)}, expected more than 0")
        if self.cagrad_c < 0:
            raise ConfigError(f"balancing.cagrad_c: found {self.cagrad_c}, expected 0 or more")
        if not 0 <= self.gradvac_beta <= 1:
            raise ConfigError(f"balancing.gradvac_beta: found {self.gradvac_beta}, expected 0 to 1")
