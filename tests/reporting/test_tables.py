"""Tables, read as the text that reaches a log."""

from vision_mtl.metrics.classification import LabelRow
from vision_mtl.metrics.detection import ClassAP
from vision_mtl.reporting.tables import heads_table, per_class_table, text

NONE = "\N{EN DASH}"
HEADS = {
    "objects": {"mAP": 0.504581, "AP50": 0.696973, "APl": None},
    "dominant": {"accuracy": 0.75, "macro_f1": 0.5, "labelled": 4952},
    "[presence]": {"mAP": 0.6, "accuracy": 0.9},
}
ROWS = [
    ClassAP("cat", 17, 0.25, 0.5, 12),
    ClassAP("unicorn", 91, None, None, 0),
    ClassAP("[dog]", 18, 0.5, 0.75, 3),
]


def test_heads_side_by_side():
    lines = text(heads_table(HEADS, title="Evaluation")).splitlines()
    assert lines[0].strip() == "Evaluation"
    assert lines[1].split() == ["head", "mAP", "accuracy", "more"]
    assert lines[3].split() == ["objects", "0.5046", NONE, "AP50=0.6970", f"APl={NONE}"]
    assert lines[4].split() == ["dominant", NONE, "0.7500", "macro_f1=0.5000", "labelled=4952"]
    assert lines[5].split() == ["[presence]", "0.6000", "0.9000"]


def test_wrapping_keeps_names_with_values():
    metrics = {f"metric{number}": number / 7 for number in range(30)}
    written = text(heads_table({"objects": metrics}), width=60)
    assert max(map(len, written.splitlines())) <= 60
    assert all(f"{name}={value:.4f}" in written for name, value in metrics.items())


def first_words(table) -> list[str]:
    return [line.split()[0] for line in text(table).splitlines()[2:]]


def test_per_class_sorting():
    assert first_words(per_class_table(ROWS)) == ["[dog]", "cat", "unicorn"]
    assert first_words(per_class_table(ROWS, sort="objects")) == ["cat", "[dog]", "unicorn"]
    assert first_words(per_class_table(ROWS, sort="name")) == ["[dog]", "cat", "unicorn"]


def test_per_class_cells():
    lines = text(per_class_table(ROWS)).splitlines()
    assert lines[0].split() == ["name", "category", "id", "ap", "ap50", "objects"]
    assert lines[2].split() == ["[dog]", "18", "0.5000", "0.7500", "3"]
    assert lines[4].split() == ["unicorn", "91", NONE, NONE, "0"]


def test_per_class_of_a_multilabel_head():
    rows = [LabelRow("cat", 2, 0.5, 1.0, 2 / 3, 0.75)]
    assert "cat" in text(per_class_table(rows, sort="support"))


def test_no_rows():
    assert text(per_class_table([])) == ""
    assert "accuracy" in text(heads_table({}))
