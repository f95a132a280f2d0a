"""What the parts of the benchmark leave behind: one JSON file holds these, from `Results` down."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from vision_mtl.commands.timing import Timing
from vision_mtl.errors import ConfigError
from vision_mtl.files import whole

Side = Literal["peer", "ours", "limit"]
Unit = Literal["ms", "s", "MB"]


class Figure(msgspec.Struct, frozen=True):
    """What one contender took, in its table's unit: the median and the quartiles of several.

    Attributes:
        name: the contender.
        side: a peer, ours, or a limit that ours cannot get below.
        limit: name of the limit's figure that this one is held against; None for none.
    """

    name: str
    side: Side
    median: float
    lower: float
    upper: float
    limit: str | None = None


class Target(msgspec.Struct, frozen=True):
    """What a figure of ours is to reach; just one of the last two is given.

    Attributes:
        ours: name of the figure.
        against: name of the figure that it is compared with; None for a target in the table's unit.
        at_least: how many times ours the other is.
        at_most: how many times the other ours is; the figure itself if `against` is None.
    """

    ours: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What was reached of a target, as a number of the target's own kind, and whether that is enough."""

    value: float
    met: bool


class Table(msgspec.Struct, frozen=True):
    """One thing that was measured of several contenders, in turn.

    Attributes:
        name: short, e.g. `batch 8`; unique in its part.
        title: what was measured, in words.
        unit: of all figures.
        figures: in the order in which they are shown.
        targets: what ours is to reach.
        notes: what one has to know to judge the figures.
    """

    name: str
    title: str
    unit: Unit
    figures: list[Figure]
    targets: list[Target] = []
    notes: list[str] = []

    def figure(self, name: str) -> Figure:
        """Return the figure of this name."""
        return next(figure for figure in self.figures if figure.name == name)

    def ratio(self, ours: str, against: str) -> float:
        """Return how many times the median of `ours` that of `against` is."""
        return self.figure(against).median / max(self.figure(ours).median, 1e-12)

    def judge(self, target: Target) -> Verdict:
        """Return whether the medians reach a target of this table."""
        if target.against is None:
            value = self.figure(target.ours).median
        elif target.at_least is not None:
            value = self.ratio(target.ours, target.against)
        else:
            value = 1 / self.ratio(target.ours, target.against)
        if target.at_least is not None:
            return Verdict(value, value >= target.at_least)
        assert target.at_most is not None
        return Verdict(value, value <= target.at_most)


class Share(msgspec.Struct, frozen=True):
    """Milliseconds that one kind of operator takes."""

    kind: str
    milliseconds: float


class Profile(msgspec.Struct, frozen=True):
    """Where one call of ours spends its time.

    Attributes:
        name: what was called.
        milliseconds: of the whole call, under the profiler, which slows it.
        shares: of each kind of operator, largest first; they add up to the whole.
        trace: file name of the trace, which lies beside the JSON.
    """

    name: str
    milliseconds: float
    shares: list[Share]
    trace: str


class Part(msgspec.Struct, frozen=True):
    """One part's tables, and where and how they were measured.

    Attributes:
        date: UTC, ISO 8601.
        command: as it was typed.
        machine: processor, cores and GPU.
        versions: of the packages that decide speed.
        device: `cpu` or `cuda`.
        threads: of torch.
        quick: whether the sizes were too small for the figures to mean anything.
        tables: what was measured.
        profiles: where ours spends its time, if that was asked for.
    """

    date: str
    command: str
    machine: str
    versions: dict[str, str]
    device: str
    threads: int
    quick: bool
    tables: list[Table]
    profiles: list[Profile] = []


class Results(msgspec.Struct):
    """The file: part -> its newest result."""

    parts: dict[str, Part] = {}


def figure(name: str, side: Side, timing: Timing, scale: float = 1.0, limit: str | None = None) -> Figure:
    """Return a figure of a timing times `scale`, to four significant digits' worth of its unit."""
    median, lower, upper = (
        float(f"{value * scale:.6g}") for value in (timing.median, timing.lower, timing.upper)
    )
    return Figure(name, side, median, lower, upper, limit)


def read_results(path: Path) -> Results:
    """Return what the file holds; nothing if there is no file.

    Raises:
        ConfigError: the file is not one of this command.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except FileNotFoundError:
        return Results()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--json '{path}': not a results file of this command ({error}); name another, or remove it"
        ) from error


def update_results(path: Path, name: str, part: Part) -> Results:
    """Put one part into the file, leaving the others as they are; return what it holds then.

    Raises:
        ConfigError: the file is not one of this command, or cannot be written.
    """
    results = read_results(path)
    results.parts[name] = part
    try:
        with whole(path) as file:
            file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    except OSError as error:
        raise ConfigError(f"--json '{path}': cannot write it ({error}); name another file") from error
    return results
