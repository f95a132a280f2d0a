"""Regression errors against values worked out by hand."""

import numpy as np
import pytest

from vision_mtl.errors import NumericsError
from vision_mtl.metrics.regression import regression_metrics

NAN = np.nan


def test_by_hand():
    """Errors 1, -1, 2 on labels 1, 3, 5, whose squares about the mean sum to 8."""
    metrics = regression_metrics(np.array([2.0, 2.0, 7.0, 99.0]), np.array([1.0, 3.0, 5.0, NAN]))
    assert metrics == pytest.approx({"MAE": 4 / 3, "RMSE": 2**0.5, "R2": 1 - 6 / 8, "labelled": 3})


def test_perfect_and_mean():
    labels = np.array([1.0, 2.0, 6.0])
    assert regression_metrics(labels, labels) == {"MAE": 0, "RMSE": 0, "R2": 1, "labelled": 3}
    assert regression_metrics(np.full(3, 3.0), labels)["R2"] == 0


@pytest.mark.parametrize("labels", [[0.1], [0.1, 0.1, 0.1], [0.1, NAN]])
def test_r2_needs_labels_that_differ(labels):
    metrics = regression_metrics(np.full(len(labels), 0.3), np.array(labels))
    assert metrics["R2"] is None
    assert metrics["MAE"] == pytest.approx(0.2)


@pytest.mark.parametrize("images", [0, 2])
def test_nothing_labelled(images):
    metrics = regression_metrics(np.ones(images), np.full(images, NAN))
    assert metrics == {"MAE": None, "RMSE": None, "R2": None, "labelled": 0}


def test_nan_prediction_is_refused():
    with pytest.raises(NumericsError, match="1 of 2 predicted values"):
        regression_metrics(np.array([1.0, NAN]), np.array([1.0, 1.0]))
