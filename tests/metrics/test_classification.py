"""Classification scores against values worked out by hand."""

import numpy as np
import pytest

from vision_mtl.errors import NumericsError
from vision_mtl.metrics.classification import (
    average_precision,
    multilabel_metrics,
    multilabel_rows,
    single_label_metrics,
    single_label_rows,
)

NAN = np.nan


def one_hot(answers: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[answers]


class TestSingleLabel:
    # Labels 0 0 0 1 2, answers 0 0 1 1 3; the sixth image is not labelled. Class 4 does not occur at all.
    scores = one_hot([0, 0, 1, 1, 3, 4], 5)
    targets = np.array([0, 0, 0, 1, 2, -1])

    def test_metrics(self):
        assert single_label_metrics(self.scores, self.targets) == pytest.approx(
            {
                "accuracy": 3 / 5,
                "top5_accuracy": 1.0,
                "balanced_accuracy": (2 / 3 + 1 + 0) / 3,
                "macro_f1": (4 / 5 + 2 / 3 + 0 + 0) / 4,
                "labelled": 5,
            }
        )

    def test_rows(self):
        assert single_label_rows(self.scores, self.targets, list("abcde")) == [
            ("a", 3, 1.0, 2 / 3, 4 / 5),
            ("b", 1, 1 / 2, 1.0, 2 / 3),
            ("c", 1, None, 0.0, 0.0),
            ("d", 0, 0.0, None, 0.0),
            ("e", 0, None, None, None),
        ]

    def test_top5(self):
        scores = np.tile(np.arange(8.0), (8, 1))
        metrics = single_label_metrics(scores, np.arange(8))
        assert metrics["accuracy"] == 1 / 8
        assert metrics["top5_accuracy"] == 5 / 8

    def test_equal_scores_do_not_count_as_right(self):
        metrics = single_label_metrics(np.zeros((8, 8)), np.arange(8))
        assert metrics["accuracy"] == 1 / 8
        assert metrics["top5_accuracy"] == 5 / 8

    @pytest.mark.parametrize("targets", [np.full(6, -1), np.zeros(0, np.int64)])
    def test_nothing_labelled(self, targets):
        metrics = single_label_metrics(np.zeros((len(targets), 3)), targets)
        assert metrics.pop("labelled") == 0
        assert set(metrics.values()) == {None}

    def test_nan_is_refused(self):
        with pytest.raises(NumericsError, match="1 of 2 class scores"):
            single_label_metrics(np.array([[0, NAN], [0, 1]]), np.array([0, 1]))


class TestAveragePrecision:
    def test_by_hand(self):
        """Hits at ranks 1, 3, 4: (1/1 + 2/3 + 3/4) / 3."""
        scores, positive = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 1, 0], bool)
        assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)

    def test_scikit_learns_example(self):
        value = average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1], bool))
        assert value == pytest.approx(0.8333333333333333)

    def test_equal_scores_are_one_threshold(self):
        """0.9: one hit of two; 0.5: two hits of four."""
        scores = np.array([0.9, 0.9, 0.5, 0.5])
        for positive in ([1, 0, 0, 1], [0, 1, 1, 0]):
            assert average_precision(scores, np.array(positive, bool)) == pytest.approx((1 / 2 + 2 / 4) / 2)

    def test_bounds(self):
        assert average_precision(np.array([0.2, 0.9]), np.array([False, True])) == 1
        assert average_precision(np.zeros(10), np.arange(10) < 3) == pytest.approx(0.3)
        assert average_precision(np.ones(3), np.zeros(3, bool)) is None


class TestMultilabel:
    scores = np.array([[0.9, 0.2, 0.6], [0.8, 0.7, 0.1], [0.3, 0.6, 0.9], [0.7, 0.1, 0.2], [0.9, 0.9, 0.9]])
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, NAN, NAN], [0, 0, 0], [NAN, NAN, NAN]])

    def test_metrics(self):
        """Class a: labels 1 0 1 0, hits at ranks 1 and 4; b: 0 1 0, best first; c: 1 0 0, best first."""
        metrics = multilabel_metrics(self.scores, self.targets)
        precision, recall = (1 / 3 + 1 + 1) / 3, (1 / 2 + 1 + 1) / 3
        assert metrics == pytest.approx(
            {
                "mAP": ((1 + 2 / 4) / 2 + 1 + 1) / 3,
                "accuracy": 2 / 3,
                "exact_match": 1 / 4,
                "CF1": 2 * precision * recall / (precision + recall),
                "OF1": 2 * 3 / (4 + 5),
                "labelled": 4,
                "without_positive": 1,
            }
        )

    def test_rows(self):
        assert multilabel_rows(self.scores, self.targets, ["a", "b", "c"]) == [
            ("a", 2, 1 / 3, 1 / 2, 2 / 5, 3 / 4),
            ("b", 1, 1.0, 1.0, 1.0, 1.0),
            ("c", 1, 1.0, 1.0, 1.0, 1.0),
        ]

    def test_threshold_is_included(self):
        metrics = multilabel_metrics(np.array([[0.7, 0.6]]), np.array([[1.0, 0.0]]), threshold=0.7)
        assert metrics["exact_match"] == metrics["CF1"] == metrics["OF1"] == 1

    def test_class_without_positive_is_left_out_of_class_means_only(self):
        metrics = multilabel_metrics(np.array([[0.9, 0.8]]), np.array([[1.0, 0.0]]))
        assert metrics["mAP"] == metrics["CF1"] == 1
        assert metrics["OF1"] == 2 / 3

    def test_nothing_predicted(self):
        metrics = multilabel_metrics(np.full((2, 2), 0.1), np.eye(2))
        assert metrics["CF1"] == metrics["OF1"] == 0

    @pytest.mark.parametrize("images", [0, 3])
    def test_nothing_labelled(self, images):
        metrics = multilabel_metrics(np.ones((images, 4)), np.full((images, 4), NAN))
        assert metrics.pop("labelled") == metrics.pop("without_positive") == 0
        assert set(metrics.values()) == {None}

    def test_order_of_images_does_not_matter(self):
        rng = np.random.default_rng(0)
        scores, targets = rng.integers(0, 5, (50, 6)) / 5, rng.integers(0, 2, (50, 6)).astype(float)
        order = rng.permutation(50)
        assert multilabel_metrics(scores[order], targets[order]) == pytest.approx(
            multilabel_metrics(scores, targets)
        )

    def test_nan_is_refused(self):
        scores = self.scores.copy()
        scores[[1, 3], 0] = NAN
        with pytest.raises(NumericsError, match=r"2 of 5 class scores .* rows: 1, 3"):
            multilabel_metrics(scores, self.targets)
