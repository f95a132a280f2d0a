"""An evaluation to report.html, report.json and plots/*.{svg,png,csv}."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision_mtl.data.dataset import Source
from vision_mtl.files import whole
from vision_mtl.heads.base import Metric
from vision_mtl.heads.evaluation import DetectionMetric, MultilabelMetric, RegressionMetric, SingleLabelMetric
from vision_mtl.metrics.detection_errors import DetectionErrors, detection_errors
from vision_mtl.reporting.report.charts import draw
from vision_mtl.reporting.report.data_figures import data_section
from vision_mtl.reporting.report.detection_figures import detection_section
from vision_mtl.reporting.report.figures import Figure, Section, as_csv, as_json
from vision_mtl.reporting.report.gallery import gallery
from vision_mtl.reporting.report.label_figures import label_section
from vision_mtl.reporting.report.page import report_page
from vision_mtl.reporting.report.provenance import provenance
from vision_mtl.reporting.report.summary import head_rows, summary_table
from vision_mtl.reporting.report.training_figures import training_section
from vision_mtl.reporting.report.views import view_of


@dataclass(frozen=True)
class Judged:
    """What a report is about.

    Attributes:
        name: of the run, for the title.
        split: that was evaluated.
        source: its images and truth.
        heads: head -> metric -> number.
        metrics: head -> filled metric.
        skipped: path -> reason of images that could not be read.
        images: how many were evaluated.
        step: of the optimiser, of the weights.
        trained_on: the training sources, where they are known.
        checkpoint: the file of the weights; None for published ones.
        config: resolved, as YAML.
        log: metrics.jsonl of the run; need not exist.
    """

    name: str
    split: str
    source: Source
    heads: Mapping[str, Mapping[str, float | None]]
    metrics: Mapping[str, Metric]
    skipped: Mapping[str, str]
    images: int
    step: int
    trained_on: Sequence[Source]
    checkpoint: Path | None
    config: str
    log: Path


def write_report(
    judged: Judged, folder: Path, baseline: Mapping[str, Any] | None = None, compared: str | None = None
) -> Path:
    """Write the report into `folder`; return the page's path.

    Args:
        judged: the evaluation.
        folder: made if need be.
        baseline: an earlier evaluation's `metrics.json`, for changes.
        compared: what that is, in words.

    Raises:
        OSError: the folder cannot be written.
        BadImageError: an image of the gallery can no longer be read.
    """
    detections = {
        name: (results := metric.results(), detection_errors(metric.index, results))
        for name, metric in judged.metrics.items()
        if isinstance(metric, DetectionMetric)
    }
    rows = head_rows(
        judged.heads, judged.metrics, {name: found[0] for name, found in detections.items()}, baseline
    )
    splits = {"train": judged.trained_on} if judged.trained_on else {}
    splits[judged.split] = [judged.source]
    sections = head_sections(judged, detections)
    if (training := training_section(judged.log)) is not None:
        sections.append(training)
    data = data_section(splits, judged.skipped)
    views = [view_of(n, m, judged.source, detections.get(n)) for n, m in judged.metrics.items()]
    page = report_page(
        title=judged.name,
        subtitle=f"{judged.images} images of {judged.split}, step {judged.step}",
        rows=rows,
        compared=compared if baseline is not None else None,
        sections=sections,
        data=data,
        gallery=gallery(judged.source, views, evaluated_positions(judged)),
        origin=provenance(judged.checkpoint, judged.config, splits),
    )
    figures = [figure for section in (*sections, data) for figure in section.figures]
    write_figures([summary_table(rows), *figures], folder)
    path = folder / "report.html"
    with whole(path) as file:
        file.write_text(page, encoding="utf-8", errors="replace")
    return path


def head_sections(
    judged: Judged, detections: Mapping[str, tuple[np.ndarray, DetectionErrors]]
) -> list[Section]:
    """Return one section per head."""
    sections = []
    for name, metric in judged.metrics.items():
        if isinstance(metric, DetectionMetric):
            sections.append(detection_section(name, metric, judged.heads[name], *detections[name]))
        else:
            assert isinstance(metric, SingleLabelMetric | MultilabelMetric | RegressionMetric)
            sections.append(label_section(name, metric))
    return sections


def evaluated_positions(judged: Judged) -> np.ndarray:
    """Return the positions in the index of the images that were judged, (n,) int64, rising."""
    metric = next(iter(judged.metrics.values()))
    if isinstance(metric, DetectionMetric):
        seen = np.isin(judged.source.index.image_ids, np.array(metric.image_ids, np.int64))
        return np.flatnonzero(seen)
    assert isinstance(metric, SingleLabelMetric | MultilabelMetric | RegressionMetric)
    return np.sort(np.array(metric.rows, np.int64))


def write_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Write report.json with the data of all figures, and of each one plots/<key>.csv, .svg and .png."""
    plots, data = folder / "plots", {}
    for figure in figures:
        key = figure.key
        while key in data:  # of a head that is called `data`
            key += "-"
        data[key] = as_json(figure)
        with whole(plots / f"{key}.csv") as file:
            file.write_text(as_csv(figure), encoding="utf-8", errors="replace")
        canvas = draw(figure)
        if canvas is not None:
            with whole(plots / f"{key}.svg") as file:
                file.write_text(canvas.file_svg(figure.title), encoding="utf-8")
            with whole(plots / f"{key}.png") as file:
                file.write_bytes(canvas.png())
    with whole(folder / "report.json") as file:
        file.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")
