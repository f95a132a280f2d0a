"""A comparison in one plain sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vision_mtl.comparison.results import Costs, ModelCost, Sample, Together


class Ratios(NamedTuple):
    """What a joint model costs, in shares of what others cost; None where those are unknown."""

    of_detector: float | None
    of_all: float | None


def cost_ratios(
    costs: Costs, method: str, detector: str | None, cost: Callable[[ModelCost], float]
) -> Ratios:
    """Return the cost of a joint model against the single-task detector's, and against that of all
    single-task models together.

    Args:
        costs: of all networks.
        method: names the joint model.
        detector: the detection head; None without one.
        cost: what is compared.
    """
    own = cost(costs.together[method])
    singles = {name: cost(model) for name, model in costs.alone.items()}
    return Ratios(own / singles[detector] if detector in singles else None, own / sum(singles.values()))


def conclude(ways: Sequence[Together], costs: Costs | None, detector: str | None) -> str:
    """Return the best way of training all heads, by Δm, beside single-task models, in a sentence.

    Args:
        ways: of training all heads together.
        costs: of the networks.
        detector: the detection head; None without one.
    """
    ranked = sorted(
        (way for way in ways if way.delta_m.mean is not None), key=lambda way: -(way.delta_m.mean or 0.0)
    )
    if not ranked:
        return (
            "Nothing can be concluded: no seed has runs of every head alone and of all together that reached "
            "their end with metrics above 0."
        )
    best = ranked[0]
    among = f", the best of {len(ways)} ways" if len(ways) > 1 else ""
    parts = [f"Trained together ({best.name}{among}), the {len(best.tasks)} heads are {_on_average(best)}"]
    parts += [_heads(best), *_costs(best, costs, detector)]
    return "; ".join(part for part in parts if part) + "."


def _on_average(way: Together) -> str:
    mean, error = way.delta_m.mean, way.delta_m.error
    assert mean is not None
    if error is None:
        return f"on average {_better(mean)} than each alone (Δm {mean:+.1f} %, of one seed)"
    spread = f"Δm {mean:+.1f} ± {error:.1f} %, standard error of {_count(way.delta_m)} seeds"
    if abs(mean) <= 2 * error:
        return f"on average as good as each alone, within two standard errors ({spread})"
    return f"on average {_better(mean)} than each alone ({spread})"


def _better(percent: float) -> str:
    return f"{abs(percent):.1f} % {'better' if percent >= 0 else 'worse'}"


def _heads(way: Together) -> str:
    """Return which heads differ by more than two standard errors; nothing where spreads are unknown."""
    if all(task.verdict is None for task in way.tasks):
        return ""
    named = [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {verdict}"
        for verdict in ("better", "worse")
        if (names := [task.task for task in way.tasks if task.verdict == verdict])
    ]
    if not named:
        return "no head differs by more than two standard errors"
    return f"{' and '.join(named)} by more than two standard errors"


def _costs(way: Together, costs: Costs | None, detector: str | None) -> list[str]:
    if costs is None or not costs.together or len(costs.alone) < len(way.tasks):
        return []
    name = way.name if way.name in costs.together else next(iter(costs.together))  # the network is the same
    ratios = cost_ratios(costs, name, detector, lambda model: model.single.median)
    than = f"{ratios.of_detector:.2f} times as long as the detector alone and " if ratios.of_detector else ""
    return [f"an answer to one image takes {than}{ratios.of_all:.2f} times as long as all single-task models"]


def _count(sample: Sample) -> int:
    return sum(value is not None for value in sample.values)
