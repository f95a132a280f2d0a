"""`tools/compare.py`: run, measure, and write table, JSON, plot and page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from vision_mtl.commands.machine import machine, versions
from vision_mtl.comparison.arena import Request, open_arena
from vision_mtl.comparison.combining import combine
from vision_mtl.comparison.costs import Bench, measure_costs
from vision_mtl.comparison.ledger import Ledger
from vision_mtl.comparison.page import comparison_page
from vision_mtl.comparison.plan import FINE_TUNING_LR, FINE_TUNING_STEPS, Finished, Plan, run_all
from vision_mtl.comparison.plot import comparison_figure, svg_text
from vision_mtl.comparison.results import COMBINED, Costs, Outcome, Results
from vision_mtl.comparison.runs import checkpoint_of, run_trial
from vision_mtl.comparison.summary import summarize
from vision_mtl.comparison.tables import cost_cells, rich_table, run_cells, score_cells
from vision_mtl.errors import DataError
from vision_mtl.reporting.tables import text
from vision_mtl.training.log import start_logging

logger = logging.getLogger(__name__)

TERMINAL = 160  # characters


def compare(
    request: Request,
    train: Callable[..., Outcome] = run_trial,
    measure: Callable[..., Costs] = measure_costs,
) -> Results:
    """Compare each head alone with all heads together, and leave nothing to do for the same request.

    Args:
        request: what to compare.
        train: runs a trial, as `run_trial` does.
        measure: measures networks, as `measure_costs` does.

    Raises:
        VisionMTLError: wrong arguments, config, data or results file, before anything is run; or a run that
            fails in another way than by numbers that are not finite.
    """
    start_logging()
    arena = open_arena(request)
    plan, output = arena.plan, request.output
    header = Results([request.command], machine(), versions(), request.config, arena.tree)
    path = request.results or output / "comparison.json"
    ledger = Ledger(path, header, partial(train, arena.recipe, output))

    def put_together(parts: Sequence[Outcome], seed: int) -> Path:
        files = {run.trial.heads[0]: checkpoint_of(output, run) for run in parts}
        return combine(arena.recipe.config, files, output / f"combined-seed{seed}.pt")

    chosen, finished = run_all(plan, ledger, put_together)
    results = ledger.results
    results.costs = find_costs(arena.bench, results.costs, finished, output, measure)
    results.summary = summarize(plan, chosen, finished, results.costs)
    ledger.write()
    report(results, plan, Path(request.config).stem, output)
    logger.info("all numbers are in %s", path)
    return results


def find_costs(
    bench: Bench, known: Costs | None, finished: Finished, output: Path, measure: Callable[..., Costs]
) -> Costs | None:
    """Return what the networks cost, measured if it is not known; None if no run has left a network."""
    alone = _checkpoints(finished.alone, output)
    joint = _checkpoints({k: runs for k, runs in finished.together.items() if k != COMBINED}, output)
    if known is not None and alone.keys() <= known.alone.keys() and joint.keys() <= known.together.keys():
        return known
    if not alone and not joint:
        return None
    logger.info("measuring what the networks cost")
    return measure(bench, alone, joint)


def _checkpoints(runs: Mapping[str, Sequence[Outcome | None]], output: Path) -> dict[str, Path]:
    """Return the weights of each one's first run that reached its end."""
    ended = {
        name: [outcome for outcome in outcomes if outcome is not None and outcome.diverged is None]
        for name, outcomes in runs.items()
    }
    return {name: checkpoint_of(output, outcomes[0]) for name, outcomes in ended.items() if outcomes}


def report(results: Results, plan: Plan, name: str, output: Path) -> None:
    """Print the tables and write `comparison.{png,svg,html}`.

    Args:
        results: with a summary.
        plan: what was compared.
        name: of the recipe.
        output: the folder.

    Raises:
        DataError: it cannot be written.
    """
    summary = results.summary
    assert summary is not None
    seeds = f"{plan.seeds} seeds" if plan.seeds > 1 else "1 seed"
    title = f"{name}: each head alone and all together, {plan.steps} steps, {seeds}"
    scores = score_cells(summary, "what they reach")
    costs = cost_cells(summary, results.costs, plan.detector)
    logger.info("\n%s\n", title)
    for table in (scores, costs):
        logger.info("%s\n", text(rich_table(table), width=TERMINAL))
    for way in summary.together:
        for sentence in way.conflicts:
            logger.info("%s: %s", way.name, sentence)
    logger.info("%s\n", summary.conclusion)
    figure = comparison_figure(summary, title)
    svg = svg_text(figure)
    runs = run_cells(results.runs, {task: headline.metric for task, headline in plan.headlines.items()})
    try:
        output.mkdir(parents=True, exist_ok=True)
        figure.savefig(output / "comparison.png", dpi=120)
        (output / "comparison.svg").write_text(svg, encoding="utf-8")
        page = comparison_page(results, title, rules(plan), [scores, costs], runs, svg)
        (output / "comparison.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--output '{output}': cannot write: {error}") from error
    logger.info("plot and page are in %s", output)


def rules(plan: Plan) -> str:
    """Return how the comparison was made, in words."""
    metrics = ", ".join(f"{task} by {headline.metric}" for task, headline in plan.headlines.items())
    tries = (
        f"the best of {len(plan.factors)} learning rates, from one run of {plan.short_steps} steps each"
        if len(plan.factors) > 1
        else "the config's learning rate"
    )
    words = (
        f"Every model has the same trunk, data, {plan.steps} optimiser steps and schedule, and {tries}. The "
        "averaged weights are judged once, at the end, on the validation data, on which the learning rates "
        f"were chosen too. Heads are compared: {metrics}. Δm is the mean over heads of the relative change, "
        "positive where better (Maninis et al., CVPR 2019, arXiv 1904.08918)."
    )
    if plan.combine:
        words += (
            f" Combined: the trunk of one single-task model and the head of each, trained together for "
            f"{FINE_TUNING_STEPS:g} of the steps at {FINE_TUNING_LR:g} of the joint learning rate; its "
            "training time includes that of the single-task models."
        )
    return words
