"""What kind of question a column of labels asks, told from its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from vision_mtl.data.image_labels import Value, shortened

FEW = 10  # distinct whole numbers that are still classes
MANY = 20  # distinct texts from which on they may be names rather than classes
SHOWN = 6  # of them in a reason

Kind = Literal["classification", "multilabel", "regression"]


class Asked(NamedTuple):
    """The kind of a column's question, and why, in words."""

    kind: Kind
    reason: str


def asked_by(values: Sequence[Value]) -> Asked:
    """Return the type of head for labels as they are written, None where an image has none.

    Lists, and cells with `|`, are several labels; numbers with a fraction, and more than ten different whole
    ones, are amounts; all else is classes.

    Raises:
        ValueError: no label, one and the same label everywhere, or texts that nearly all differ.
    """
    known = [value for value in values if value is not None and value != ""]
    if not known:
        raise ValueError("no image has a label")
    if any(isinstance(value, list) or (isinstance(value, str) and "|" in value) for value in known):
        return Asked("multilabel", "several labels per image")
    distinct = sorted({str(value) for value in known})
    if len(distinct) == 1:
        raise ValueError(f"every label is '{distinct[0]}', so there is nothing to learn")
    names = shortened(distinct, SHOWN)
    numbers = [_number(value) for value in known]
    amounts = [number for number in numbers if number is not None]
    if len(amounts) == len(known):
        if any(not number.is_integer() for number in amounts):
            return Asked("regression", f"numbers from {min(amounts):g} to {max(amounts):g}")
        if len(distinct) > FEW:
            return Asked("regression", f"{len(distinct)} different whole numbers")
        return Asked("classification", f"{len(distinct)} different whole numbers: {names}")
    if len(distinct) > max(MANY, len(known) / 2):
        raise ValueError(
            f"{len(distinct)} different texts for {len(known)} images, such as {names}: "
            "these look like names, not classes"
        )
    return Asked("classification", f"{len(distinct)} classes: {names}")


def _number(value: Value) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None
