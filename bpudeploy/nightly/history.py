"""A job's history: each metric night by night, and whether tonight is on a worse level than it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bpudeploy.nightly.changed import changed, reproduce
from bpudeploy.nightly.changes import ENOUGH, Change, changes, standing_of
from bpudeploy.nightly.metrics import Metric, invalid
from bpudeploy.nightly.night import Against, Finding, Outcome
from bpudeploy.nightly.series import Point, Series
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.session import hottest
from bpudeploy.spec.suite import NightlyChecks


@dataclass(frozen=True)
class History:
    """One metric of one job; ``measured`` are those of the points, one each."""

    job: str
    metric: Metric
    series: Series
    measured: tuple[Measurement, ...]
    changes: tuple[Change, ...]
    standing: Change | None
    """The change for the worse that has not been undone since."""


def nights_of(found: Sequence[Measurement], suite: str) -> list[Measurement]:
    """Return what the suite's nights judged, one a night, the oldest first.

    Args:
        found: a job's measurements, the latest first. Of a night that measured twice, the last counts.
    """
    latest: dict[str, Measurement] = {}
    for m in found:
        if m.night is not None and m.night.partition("/")[0] == suite:
            latest.setdefault(m.night, m)
    return sorted(latest.values(), key=lambda m: m.made)


def histories(job: str, measured: Sequence[Measurement], checks: NightlyChecks) -> tuple[History, ...]:
    """Return the history of each metric that is checked and has one.

    Args:
        measured: one a night, the oldest first.
    """
    found = []
    for metric in Metric:
        at_least = metric.at_least(checks)
        pairs = [(point, m) for m in measured if (point := _point(metric, m)) is not None]
        if metric is Metric.COMPILE_TIME:  # nights that took the binary from the store measured nothing
            pairs = list({m.build.compiled: (p, m) for p, m in reversed(pairs) if m.build is not None}.values())[::-1]
        if at_least is None or not pairs:
            continue
        series = Series(tuple(point for point, _ in pairs), metric.scale, metric.worse, at_least)
        every = tuple(m for _, m in pairs)
        found_changes = changes(series)
        found.append(History(job, metric, series, every, found_changes, standing_of(found_changes)))
    return tuple(found)


def against_history(history: History, pinned: str | None, recipe: str) -> Finding:
    """Return what a metric's history says of tonight.

    Args:
        pinned: when its baseline was; what changed before is accepted.
        recipe: its file, for the commands.
    """
    points, change = history.series.points, history.standing
    now = points[-1].value
    judged = sum(not point.invalid for point in points)
    if judged < ENOUGH:
        found = _finding(history, Outcome.CANNOT_TELL, now, None, "")
        return found.model_copy(update={"because": (f"{judged} nights that can be judged; {ENOUGH} are needed",)})
    if change is None or (pinned is not None and history.measured[change.first].made <= pinned):
        return _finding(history, Outcome.SAME, now, None, f"{len(points)} nights, no change for the worse that stands")
    good, bad = history.measured[change.last_before], history.measured[change.first]
    found = _finding(history, Outcome.REGRESSION, now, change, f"the level of {len(points)} nights")
    return found.model_copy(
        update={
            "since": bad.made,
            "last_good": good.made,
            "changed": changed(good, bad),
            "reproduce": reproduce(good, bad, recipe),
        }
    )


def _finding(history: History, outcome: Outcome, now: float, change: Change | None, how: str) -> Finding:
    return Finding(
        metric=history.metric,
        against=Against.HISTORY,
        outcome=outcome,
        now=now,
        before=change.before if change is not None else None,
        change=change.size if change is not None else None,
        at_least=history.series.at_least,
        how=how,
    )


def _point(metric: Metric, m: Measurement) -> Point | None:
    """Return a measurement as a point; what no board has a part in has no board and no temperature."""
    value = metric.of(m)
    if value is None or (value <= 0 and metric is not Metric.TOP1):
        return None
    at = datetime.fromisoformat(m.made)
    if metric.is_latency:
        return Point(at, value, m.board_id, hottest(m.conditions), invalid(m))
    return Point(at, value, m.board_id if metric is Metric.MEMORY else "")
