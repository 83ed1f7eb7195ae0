"""The repair loop: the fewest taps in int16 that keep the promised accuracy, taken in the order of what they bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bpudeploy.quantize.findings import Candidate, Outcome, Repair, Trial
from bpudeploy.quantize.price import Slowdown

Evaluate = Callable[[tuple[str, ...]], float]
"""From the taps that are promoted to the drop in points of top-1."""


def repair(
    before: float,
    max_drop: float,
    max_slowdown: float | None,
    images: int,
    candidates: Callable[[], Sequence[Candidate]],
    evaluate: Evaluate,
    slowdown: Slowdown,
) -> Repair:
    """Promote the fewest of ``candidates``, the best first, with which the drop is at most ``max_drop`` points.

    1, 2, 4, ... of them are tried until the gate holds, then the gap is halved: the fewest, if more never do worse.
    Where they do, what is returned was still evaluated itself, and holds if it says so.

    Args:
        before: the drop without any promotion, in points.
        max_slowdown: a candidate that would make the predicted slowdown exceed it is passed over.
        images: how many the drop is measured on.
        candidates: asked for only if the gate does not hold; the best first.
    """
    trials = [Trial(promoted=0, drop=before, slowdown=1.0)]
    ranked = tuple(candidates()) if before > max_drop else ()
    order = _affordable(ranked, slowdown, max_slowdown)

    def holds(count: int) -> bool:
        chosen = tuple(order[:count])
        trials.append(Trial(promoted=count, drop=evaluate(chosen), slowdown=slowdown(chosen)))
        return trials[-1].drop <= max_drop

    if before > max_drop:
        _search(len(order), holds)
    best = min(trials, key=lambda t: (max(t.drop, max_drop), t.promoted))
    return Repair(
        outcome=_outcome(best, max_drop, ranked),
        max_drop=max_drop,
        max_slowdown=max_slowdown,
        images=images,
        ranked=ranked,
        trials=tuple(trials),
        promoted=tuple(order[: best.promoted]),
        drop=best.drop,
        slowdown=best.slowdown,
    )


def _affordable(ranked: Sequence[Candidate], slowdown: Slowdown, limit: float | None) -> list[str]:
    """Return the taps in order, without those that would break the limit of the predicted slowdown."""
    order: list[str] = []
    for candidate in ranked:
        if limit is None or slowdown([*order, candidate.tap]) <= limit:
            order.append(candidate.tap)
    return order


def _search(most: int, holds: Callable[[int], bool]) -> None:
    """Try 1, 2, 4, ... ``most`` until one holds, then halve the gap to the largest that did not."""
    fails, tried = 0, min(1, most)
    while tried > fails and not holds(tried):
        fails, tried = tried, min(2 * tried, most)
    works = tried
    while works - fails > 1:
        middle = (fails + works) // 2
        if holds(middle):
            works = middle
        else:
            fails = middle


def _outcome(best: Trial, max_drop: float, ranked: Sequence[Candidate]) -> Outcome:
    if best.drop <= max_drop:
        return Outcome.REPAIRED if best.promoted else Outcome.HELD
    return Outcome.BEST if ranked else Outcome.NOT_POSSIBLE
