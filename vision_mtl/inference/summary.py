"""What a run found, counted as it goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vision_mtl.inference.results import Entry, labels_of


@dataclass
class Spread:
    """Mean and range of a regression head's answers."""

    count: int = 0
    total: float = 0.0
    lowest: float = float("inf")
    highest: float = float("-inf")

    def add(self, value: float) -> None:
        self.count, self.total = self.count + 1, self.total + value
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)

    @property
    def mean(self) -> float:
        return self.total / self.count

    def text(self) -> str:
        return f"mean {self.mean:.4g}, from {self.lowest:.4g} to {self.highest:.4g}"


@dataclass
class Summary:
    """Counts over entries of predictions.jsonl.

    Attributes:
        images: that were answered.
        skipped: files that could not be read.
        objects: detections by category.
        labels: image-level head -> answers by label.
        values: regression head -> spread.
    """

    images: int = 0
    skipped: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    values: dict[str, Spread] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Count an image."""
        if "reason" in entry:
            self.skipped += 1
            return
        self.images += 1
        self.objects.update(found["category"] for found in entry["detections"])
        for head, answer in entry["labels"].items():
            if "value" in answer:
                self.values.setdefault(head, Spread()).add(answer["value"])
            else:
                self.labels.setdefault(head, Counter()).update(labels_of(answer))

    def to_dict(self) -> dict[str, Any]:
        """Return all counts, ready for JSON."""
        return {
            "images": self.images,
            "skipped": self.skipped,
            "objects": dict(self.objects.most_common()),
            "labels": {head: dict(counts.most_common()) for head, counts in self.labels.items()},
            "values": {
                head: {"mean": spread.mean, "min": spread.lowest, "max": spread.highest}
                for head, spread in self.values.items()
            },
        }

    def lines(self) -> list[str]:
        """Return the counts as text: objects by category, answers by head."""
        lines = [f"{self.objects.total()} objects" + _counts(self.objects)]
        lines += [head + _counts(counts) for head, counts in self.labels.items()]
        lines += [f"{head}: {spread.text()}" for head, spread in self.values.items()]
        return lines


def _counts(counter: Counter[str]) -> str:
    return ": " + ", ".join(f"{name} {count}" for name, count in counter.most_common()) if counter else ""
