"""Resampled figures: the identity is the metric itself, and a copy of an image is a copy."""

import numpy as np
import pytest

from tests.metrics.test_detection import crowded, small, truth_of
from vision_mtl.metrics.bootstrap import (
    bootstrap_intervals,
    detection_intervals,
    multilabel_intervals,
    weighted_aps,
    weighted_multilabel_metrics,
)
from vision_mtl.metrics.classification import multilabel_metrics
from vision_mtl.metrics.detection import evaluate_detections
from vision_mtl.metrics.regression import regression_metrics


def test_each_image_once_is_the_metric():
    for seed in range(3):
        data, rows = crowded(seed)
        truth = truth_of(data)
        aps = weighted_aps(truth, rows, np.ones((1, 30), np.int64))
        expected = evaluate_detections(truth, rows).metrics
        assert {name: expected[name] for name in aps} == pytest.approx(
            {name: values[0] for name, values in aps.items()}, abs=1e-12
        )


def test_a_weight_is_that_many_copies_of_an_image():
    data, rows = crowded()
    rows[:, 5] = np.random.default_rng(1).permutation(len(rows)) / len(rows)  # no ties between images
    weights = np.random.default_rng(0).integers(0, 3, 30)
    copies = {"categories": data["categories"], "images": [], "annotations": []}
    copied = []
    for image, weight in zip(data["images"], weights, strict=True):
        for copy in range(weight):
            name = image["id"] + 1000 * copy
            copies["images"].append({**image, "id": name})
            copies["annotations"] += [
                {**a, "image_id": name} for a in data["annotations"] if a["image_id"] == image["id"]
            ]
            own = rows[rows[:, 0] == image["id"]].copy()
            own[:, 0] = name
            copied.append(own)
    expected = evaluate_detections(truth_of(copies), np.concatenate(copied)).metrics
    aps = weighted_aps(truth_of(data), rows, weights[None])
    assert {name: values[0] for name, values in aps.items()} == pytest.approx(
        {name: expected[name] for name in aps}, abs=1e-12
    )


def test_detection_intervals_hold_the_metric_and_are_seeded():
    data, rows = crowded()
    truth = truth_of(data)
    intervals = detection_intervals(truth, rows, resamples=100)
    assert intervals == detection_intervals(truth, rows, resamples=100)
    assert intervals != detection_intervals(truth, rows, resamples=100, seed=1)
    metrics = evaluate_detections(truth, rows).metrics
    for name, interval in intervals.items():
        assert interval.low < metrics[name] < interval.high
    nothing = detection_intervals(truth_of({**small(), "annotations": []}), np.zeros((0, 7)), 10)
    assert set(nothing.values()) == {None}


@pytest.mark.parametrize("seed", range(3))
def test_weighted_labels_are_the_metrics_of_that_many_copies(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 9, (25, 4)) / 8  # with ties
    targets = np.where(rng.random((25, 4)) < 0.2, np.nan, rng.random((25, 4)) < 0.3)
    targets[3], targets[:, 3] = (
        np.nan,
        np.where(rng.random(25) < 0.5, np.nan, 0),
    )  # a class without a positive
    weights = np.stack([np.ones(25, np.int64), rng.integers(0, 3, 25), np.arange(25) == 3])
    found = weighted_multilabel_metrics(scores, targets, 0.5, weights)
    for draw, counts in enumerate(weights):
        rows = np.repeat(np.arange(25), counts)
        expected = multilabel_metrics(scores[rows], targets[rows], 0.5)
        for name, values in found.items():  # the last draw has the unlabelled image alone: nothing is defined
            value = None if np.isnan(values[draw]) else values[draw]
            assert value == pytest.approx(expected[name], abs=1e-12), name


def test_intervals_of_labels_hold_the_metrics():
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.4).astype(float)
    scores = np.clip(targets * 0.3 + rng.random((60, 3)) * 0.7, 0, 1)
    intervals = multilabel_intervals(scores, targets, 0.5, 100)
    assert intervals == multilabel_intervals(scores, targets, 0.5, 100)
    metrics = multilabel_metrics(scores, targets, 0.5)
    for name, interval in intervals.items():
        assert interval.low < metrics[name] < interval.high
    assert set(multilabel_intervals(np.zeros((0, 3)), np.zeros((0, 3)), 0.5, 5).values()) == {None}


def test_intervals_of_a_mean_have_its_standard_error():
    targets = np.zeros(400)
    values = np.random.default_rng(0).exponential(size=400)
    interval = bootstrap_intervals(lambda rows: regression_metrics(values[rows], targets[rows]), 400)["MAE"]
    error = 1.96 * values.std() / 20
    assert (interval.low, interval.high) == pytest.approx(
        (values.mean() - error, values.mean() + error), abs=0.02
    )


def test_an_interval_is_about_the_figure_where_draws_leave_classes_out():
    # Of 40 labels 39 are in one image each, never found, so that a draw lacks a third of them.
    targets, scores = np.eye(40), np.zeros((40, 40))
    scores[:, 0] = targets[:, 0] = 1
    value = multilabel_metrics(scores, targets, 0.5)["CF1"]
    interval = multilabel_intervals(scores, targets, 0.5, 200)["CF1"]
    assert interval.low < value < interval.high
    drawn = weighted_multilabel_metrics(scores, targets, 0.5, np.eye(40, dtype=np.int64)[:1] * 40)
    assert drawn["CF1"][0] == 1  # as of one image forty times


def test_nothing_to_draw_or_nothing_defined():
    unlabelled = np.full(5, np.nan)
    found = bootstrap_intervals(lambda rows: regression_metrics(unlabelled[rows], unlabelled[rows]), 0)
    assert set(found.values()) == {None}
    found = bootstrap_intervals(lambda rows: regression_metrics(np.zeros(5)[rows], unlabelled[rows]), 5, 3)
    assert found["MAE"] is None
