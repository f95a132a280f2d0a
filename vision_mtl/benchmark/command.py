"""`tools/benchmark.py`: what to measure, and the tables of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from vision_mtl.benchmark.accuracy import (
    Ledger,
    Results,
    Trial,
    open_arena,
    train_contender,
)
from vision_mtl.benchmark.accuracy_report import accuracy_plot, accuracy_table, group_runs, mean_score
from vision_mtl.commands.machine import machine, versions
from vision_mtl.config import load_config
from vision_mtl.errors import ConfigError, nearest
from vision_mtl.reporting.tables import text
from vision_mtl.training.log import start_logging

logger = logging.getLogger(__name__)


def compare_accuracy(
    config_path: str,
    overrides: Sequence[str],
    results: Path,
    plot: Path | None,
    names: Sequence[str],
    budget: float,
    search: float,
    seeds: int,
    evaluations: int,
    command: str,
) -> None:
    """Train every contender for `budget` seconds and print AP against seconds.

    Learning rate and precision are chosen by short runs, of `search` seconds at first. Our best
    one and the best peer are then run with `seeds` seeds, so that the difference has a spread. Runs that
    `results` holds are not repeated, so the table can be built over several sittings.

    Raises:
        VisionMTLError: a wrong config, data set, contender or results file.
    """
    start_logging()
    if min(budget, search) <= 0 or seeds < 1 or evaluations < 1:
        raise ConfigError(
            f"found --minutes {budget / 60:g}, --search-seconds {search:g}, --seeds {seeds}, "
            f"--evaluations {evaluations}; expected all of them above 0"
        )
    arena = open_arena(load_config(config_path, overrides))
    for name in names:
        if name not in arena.build:
            raise ConfigError(
                f"--contenders: found '{name}'{nearest(name, arena.build) or '.'} "
                f"Known: {', '.join(arena.build)}"
            )
    ledger = Ledger(results, arena, Results([command], machine(), versions(), config_path))
    chosen = {
        name: train_contender(ledger, name, search, budget, evaluations) for name in names or arena.build
    }
    groups = group_runs(ledger.results.runs, budget)
    sides = (
        [name for name in chosen if name.startswith("ours")],
        [name for name in chosen if not name.startswith("ours")],
    )
    best = [max(side, key=lambda name: mean_score(groups[name])) for side in sides if side]
    for seed in range(1, seeds):
        for name in best:
            setting = chosen[name]
            ledger.run(Trial(name, setting.precision, setting.lr, seed, budget), evaluations)
    groups = group_runs(ledger.results.runs, budget)
    title = f"{Path(config_path).stem}: AP on val against seconds of training"
    logger.info("%s", text(accuracy_table(groups, title), width=140))
    if len(best) == 2:
        ours, peer = (mean_score(groups[name]) for name in best)
        logger.info("%s is %+.1f AP against %s", best[0], 100 * (ours - peer), best[1])
    if plot is not None:
        accuracy_plot(groups, title, plot)
        logger.info("the plot is in %s", plot)
    logger.info("all runs are in %s", results)
