"""The repair search: promote the fewest taps to int16 that keep the accuracy drop within the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bpudeploy.quantize.findings import PromotionCandidate, RepairOutcome, RepairReport, RepairTrial
from bpudeploy.quantize.slowdown import Slowdown

Evaluate = Callable[[tuple[str, ...]], float]
"""Maps promoted taps to the drop in points of top-1."""


def repair(
    before: float,
    max_drop: float,
    max_slowdown: float | None,
    images: int,
    candidates: Callable[[], Sequence[PromotionCandidate]],
    evaluate: Evaluate,
    slowdown: Slowdown,
) -> RepairReport:
    """Promote the fewest of ``candidates``, best first, that keep the drop at most ``max_drop`` points.

    Tries 1, 2, 4, ... of them until the drop is within the limit, then bisects. This finds the minimum if more
    promotions never increase the drop. In any case, the returned promotions were themselves evaluated.

    Args:
        before: the drop without promotions, in points.
        max_slowdown: candidates that would exceed this predicted slowdown are skipped.
        images: the number of images the drop is measured on.
        candidates: returns the candidates, best first; called only if ``before`` exceeds ``max_drop``.
    """
    trials = [RepairTrial(promoted=0, drop=before, slowdown=1.0)]
    ranked = tuple(candidates()) if before > max_drop else ()
    order = _affordable(ranked, slowdown, max_slowdown)

    def holds(count: int) -> bool:
        chosen = tuple(order[:count])
        trials.append(RepairTrial(promoted=count, drop=evaluate(chosen), slowdown=slowdown(chosen)))
        return trials[-1].drop <= max_drop

    if before > max_drop:
        _search(len(order), holds)
    best = min(trials, key=lambda t: (max(t.drop, max_drop), t.promoted))
    return RepairReport(
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


def _affordable(ranked: Sequence[PromotionCandidate], slowdown: Slowdown, limit: float | None) -> list[str]:
    """Return the taps in order, skipping those that would exceed the slowdown limit."""
    order: list[str] = []
    for candidate in ranked:
        if limit is None or slowdown([*order, candidate.tap]) <= limit:
            order.append(candidate.tap)
    return order


def _search(most: int, holds: Callable[[int], bool]) -> None:
    """Try 1, 2, 4, ... ``most`` until one holds, then bisect down to the largest that failed."""
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


def _outcome(best: RepairTrial, max_drop: float, ranked: Sequence[PromotionCandidate]) -> RepairOutcome:
    if best.drop <= max_drop:
        return RepairOutcome.REPAIRED if best.promoted else RepairOutcome.NOT_NEEDED
    return RepairOutcome.BEST_EFFORT if ranked else RepairOutcome.NOT_POSSIBLE
