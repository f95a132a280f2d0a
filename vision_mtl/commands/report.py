"""The report at the end of training and of an evaluation: what those know, handed to `reporting.report`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vision_mtl.config import Config, to_tree
from vision_mtl.data.dataset import Source
from vision_mtl.errors import DataError
from vision_mtl.reporting.report.write import Judged, write_report
from vision_mtl.training.evaluation import Evaluation

logger = logging.getLogger(__name__)


def report_evaluation(
    result: Evaluation,
    config: Config,
    source: Source,
    folder: Path,
    split: str,
    *,
    step: int,
    checkpoint: Path | None,
    run: Path,
    trained_on: Sequence[Source] = (),
    baseline: Mapping[str, Any] | None = None,
    compared: str | None = None,
) -> None:
    """Write report.html and its figures into `folder`, unless `evaluation.report` is off.

    What the evaluation found is to be written before: a report that fails loses no number.

    Args:
        result: the evaluation.
        config: resolved.
        source: what was evaluated.
        folder: for the report.
        split: of `source`.
        step: of the optimiser, of the weights.
        checkpoint: the file of the weights; None for published ones.
        run: the folder of the run, whose metrics.jsonl gives the training's curves.
        trained_on: the training sources, where they are open.
        baseline: an earlier `metrics.json`, for changes.
        compared: what that is, in words.

    Raises:
        DataError: the folder cannot be written.
    """
    if not config.evaluation.report:
        return
    judged = Judged(
        name=run.resolve().name,
        split=split,
        source=source,
        heads=result.heads,
        metrics=result.metrics,
        skipped=result.skipped,
        images=result.images,
        step=step,
        trained_on=trained_on,
        checkpoint=checkpoint,
        config=yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True),
        log=run / "metrics.jsonl",
    )
    try:
        path = write_report(judged, folder, baseline, compared)
    except OSError as error:
        raise DataError(f"the report in '{folder}' cannot be written: {error}") from error
    logger.info("the report is %s", path)
