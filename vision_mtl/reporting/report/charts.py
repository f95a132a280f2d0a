"""Figures to shapes: lines, bars, points and matrices, all of one width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vision_mtl.reporting.report.canvas import SERIES, Canvas, Point, shortened, text_width
from vision_mtl.reporting.report.figures import Bars, Curves, Figure, Matrix, Points, Table

WIDTH = 420.0  # units, at which a figure is readable on a phone
PLOT = 200.0  # height of the area inside the axes
LEFT, RIGHT, BOTTOM = 44.0, 12.0, 36.0  # margins around it
ROW, LEGEND_ROW = 17.0, 16.0
DRAWN_POINTS = 300  # per line; more cannot be told apart
Scale = Callable[[float], float]


def draw(figure: Figure) -> Canvas | None:
    """Return the figure's picture; None for a table, and where there is nothing to draw."""
    if isinstance(figure, Table):
        return None
    if isinstance(figure, Curves):
        return _curves(figure) if any(_known(curve.y) for curve in figure.curves) else None
    if isinstance(figure, Bars):
        return _bars(figure) if figure.names else None
    if isinstance(figure, Points):
        return _points(figure) if len(figure.true) else None
    return _matrix(figure) if figure.rows else None


def series_colour(place: int) -> str:
    """Return the name of a line's colour by its place."""
    return f"c{place % SERIES}"


def _curves(figure: Curves) -> Canvas:
    entries = [curve.name for curve in figure.curves]
    xs = [x for curve in figure.curves for x in curve.x]
    ys = [y for curve in figure.curves for y in _known(curve.y)]
    canvas, top = _with_legend(entries, PLOT)
    x_ends = figure.x_range or (min(xs), max(xs))
    y_ends = figure.y_range or (_log_ends(ys) if figure.log_y else _round_ends(ys, figure.zero))
    to_x, to_y = _axes(canvas, top, x_ends, y_ends, (figure.x_label, figure.y_label), figure.log_y)
    if figure.diagonal:
        canvas.line([(to_x(0), to_y(0)), (to_x(1), to_y(1))], "soft", dashed=True)
    if figure.zero and y_ends[0] < 0 < y_ends[1]:
        canvas.line([(to_x(x_ends[0]), to_y(0)), (to_x(x_ends[1]), to_y(0))], "soft", dashed=True)
    for place, curve in enumerate(figure.curves):
        for part in _unbroken(curve.x, curve.y):
            places = [(to_x(x), to_y(min(max(y, y_ends[0]), y_ends[1]))) for x, y in part]
            canvas.line(_thinned(places), series_colour(place), 1.8)
            if len(part) <= 20:
                for (x, y), spot in zip(part, places, strict=True):
                    hint = f"{curve.name}: {_number(y)} at {_number(x)}"
                    canvas.dot(spot, 2.6, series_colour(place), hint=hint)
    return canvas


def _points(figure: Points) -> Canvas:
    canvas, top = Canvas(WIDTH, PLOT + BOTTOM + 20), 20.0
    ends = _round_ends([*figure.true, *figure.predicted])
    to_x, to_y = _axes(canvas, top, ends, ends, ("true", "predicted"))
    canvas.line([(to_x(ends[0]), to_y(ends[0])), (to_x(ends[1]), to_y(ends[1]))], "soft", dashed=True)
    step = max(1, -(-len(figure.true) // 2000))
    pairs = list(zip(figure.true, figure.predicted, strict=True))[::step]
    for true, predicted in pairs:
        hint = f"true {_number(true)}, predicted {_number(predicted)}" if len(pairs) <= 300 else ""
        canvas.dot((to_x(true), to_y(predicted)), 3, "c0", 0.45, hint)
    return canvas


def _bars(figure: Bars) -> Canvas:
    names = list(figure.names)[: figure.shown]
    several = len(figure.series) > 1
    thickness = 11.0 if several else 13.0
    row = thickness * len(figure.series) + 6
    canvas, top = _with_legend(list(figure.series) if several else [], row * len(names) - BOTTOM, False)
    left = min(160.0, max(text_width(name) for name in names) + 10)
    known = [v for values in figure.series.values() for v in _known(values[: len(names)])]
    limit = figure.limit or max([*known, 0.0]) or 1.0
    room = WIDTH - left - 52
    for i, name in enumerate(names):
        y = top + i * row
        canvas.words((left - 6, y + row / 2 + 1), shortened(name, left - 6), anchor="end", colour="ink")
        for place, (series, values) in enumerate(figure.series.items()):
            value, bar = values[i], y + place * thickness
            length = 0.0 if value is None else room * min(1.0, value / limit)
            hint = f"{name}, {series}: {_number(value)}"
            canvas.rectangle((left, bar), (room, thickness - 1.5), "line", 0.45)
            canvas.rectangle((left, bar), (length, thickness - 1.5), series_colour(place), hint=hint)
            canvas.words((left + room + 5, bar + thickness - 2.5), _number(value), size=10)
    return canvas


def _matrix(figure: Matrix) -> Canvas:
    rows, columns = len(figure.rows), len(figure.columns)
    left = min(110.0, max(text_width(name, 10) for name in figure.rows) + 10)
    top = min(130.0, max(text_width(name, 10) for name in figure.columns) + 28)
    side = min(44.0, (WIDTH - left - RIGHT) / columns)
    height = min(side, 30.0)
    canvas = Canvas(WIDTH, top + rows * height + 8)
    canvas.words((left, 11), "predicted →", size=10)
    canvas.words((2, top - 6), "true ↓", size=10)
    letters = min(11.0, side * 0.42)
    for j, name in enumerate(figure.columns):
        x = left + (j + 0.5) * side
        canvas.words((x + 3.5, top - 5), shortened(name, top - 26, 10), "ink", 10, upwards=True)
    for i, (name, counts) in enumerate(zip(figure.rows, figure.counts, strict=True)):
        y, total = top + i * height, max(1, sum(counts))
        canvas.words((left - 6, y + height / 2 + 3.5), shortened(name, left - 6, 10), "ink", 10, "end")
        for j, count in enumerate(counts):
            share = count / total
            right = figure.columns[j] == name
            place = (left + j * side + 0.75, y + 0.75)
            colour = ("c2" if right else "c1") if count else "line"
            hint = f"true {name}, predicted {figure.columns[j]}: {count} ({share:.0%})"
            shade = 0.12 + 0.78 * share if count else 0.25
            canvas.rectangle(place, (side - 1.5, height - 1.5), colour, shade, hint)
            text = str(count) if count < 10_000 else f"{count / 1000:.0f}k"
            size = min(letters, letters * (side - 1) / text_width(text, letters))
            if count and size >= 4.5:
                ink = "paper" if share > 0.6 else "ink"
                middle = (place[0] + side / 2 - 0.75, y + height / 2 + size * 0.36)
                canvas.words(middle, text, ink, size, "middle")
    return canvas


def _with_legend(entries: Sequence[str], height: float, labelled: bool = True) -> tuple[Canvas, float]:
    """Return a canvas with a legend above `height` units, and where those begin; one entry needs none.

    `labelled` leaves room for the y axis' label between them.
    """
    places, x, y = [], 4.0, 11.0
    for place, name in enumerate(entries if len(entries) > 1 else []):
        text = shortened(name, 150)
        if x > 4 and x + 26 + text_width(text) > WIDTH:
            x, y = 4.0, y + LEGEND_ROW
        places.append((place, text, x, y))
        x += 26 + text_width(text)
    top = (20.0 if labelled else 4.0) if not places else y + (28 if labelled else 12)
    canvas = Canvas(WIDTH, top + height + BOTTOM)
    for place, text, x, y in places:
        canvas.rectangle((x, y - 7), (12, 6), series_colour(place))
        canvas.words((x + 16, y), text)
    return canvas, top


def _axes(
    canvas: Canvas,
    top: float,
    x_ends: tuple[float, float],
    y_ends: tuple[float, float],
    labels: tuple[str, str],
    log_y: bool = False,
) -> tuple[Scale, Scale]:
    """Draw grid, numbers and labels; return value -> place, for x and for y."""
    right, bottom = WIDTH - RIGHT, top + PLOT

    def linear(ends: tuple[float, float], start: float, stop: float) -> Scale:
        low, span = ends[0], (ends[1] - ends[0]) or 1.0
        return lambda value: start + (value - low) / span * (stop - start)

    to_x = linear(x_ends, LEFT, right)
    to_y = linear(y_ends, bottom, top)
    marks = _ticks(*y_ends)
    if log_y:
        logs = (math.log10(y_ends[0]), math.log10(y_ends[1]))
        by_log = linear(logs, bottom, top)
        marks = _log_ticks(*logs)

        def to_y(value: float) -> float:
            return by_log(math.log10(value))

    for mark in marks:
        canvas.line([(LEFT, to_y(mark)), (right, to_y(mark))], "line")
        canvas.words((LEFT - 6, to_y(mark) + 4), _number(mark), anchor="end", size=10)
    for mark in _ticks(*x_ends):
        canvas.line([(to_x(mark), bottom), (to_x(mark), bottom + 4)], "line")
        anchor_end = to_x(mark) > right - 8
        canvas.words(
            (to_x(mark), bottom + 15), _number(mark), anchor="end" if anchor_end else "middle", size=10
        )
    canvas.line([(LEFT, bottom), (right, bottom)], "soft")
    canvas.words(((LEFT + right) / 2, bottom + 30), labels[0], anchor="middle")
    canvas.words((4, top - 9), labels[1])
    return to_x, to_y


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-6)
    return [step * i for i in range(first, math.floor(high / step + 1e-6) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between 10 ** low and 10 ** high; over less than two of them 2 and 5 times too."""
    factors = (1, 2, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    marks = [mark for mark in marks if low - 1e-9 <= math.log10(mark) <= high + 1e-9]
    return marks[:: max(1, len(marks) // 6)]


def _round_ends(values: Sequence[float], zero: bool = False) -> tuple[float, float]:
    """Return ends that leave a little room, and begin at 0 where the values are above it and near."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    room = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - room), high + room


def _log_ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.05 * (high - low), 0.05)
    return 10 ** (low - room), 10 ** (high + room)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _unbroken(x: Sequence[float], y: Sequence[float | None]) -> list[list[Point]]:
    """Return the runs of points that have a y."""
    parts: list[list[Point]] = [[]]
    for at, value in zip(x, y, strict=True):
        if value is not None:
            parts[-1].append((at, value))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _thinned(points: list[Point]) -> list[Point]:
    step = -(-len(points) // DRAWN_POINTS)
    return points if step <= 1 else [*points[::step], points[-1]]


def _number(value: float | None) -> str:
    """Return a number as short as it can be read."""
    if value is None:
        return "\N{EN DASH}"
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
