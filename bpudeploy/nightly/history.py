"""The history of a job's metrics, and whether tonight's level is worse than before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from bpudeploy.nightly.change_points import MIN_NIGHTS, ChangePoint, find_change_points, latest_regression
from bpudeploy.nightly.differences import with_evidence
from bpudeploy.nightly.metrics import Metric, is_from_suite
from bpudeploy.nightly.night import FindingOutcome, MetricFinding, Reference
from bpudeploy.nightly.series import Point, Series
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.session import hottest
from bpudeploy.spec.suite import NightlyChecks


@dataclass(frozen=True)
class MetricHistory:
    """One metric of one job, with one measurement per point."""

    job: str
    metric: Metric
    series: Series
    measured: tuple[Measurement, ...]
    changes: tuple[ChangePoint, ...]

    @property
    def regression(self) -> ChangePoint | None:
        """The latest regression that has not been recovered from."""
        return latest_regression(self.changes)


def suite_measurements(found: Sequence[Measurement], suite: str) -> list[Measurement]:
    """Return the suite's measurements, one per night (the last if there are several), oldest first.

    Args:
        found: a job's measurements, newest first.
    """
    latest: dict[str | None, Measurement] = {}
    for m in found:
        if is_from_suite(m, suite):
            latest.setdefault(m.night, m)
    return sorted(latest.values(), key=lambda m: m.made)


def metric_histories(job: str, measured: Sequence[Measurement], checks: NightlyChecks) -> tuple[MetricHistory, ...]:
    """Return the history of each checked metric that has one.

    Args:
        measured: one per night, oldest first.
    """
    found = []
    for metric in Metric:
        at_least = metric.threshold(checks)
        pairs = [(point, m) for m in measured if (point := _point(metric, m)) is not None]
        if metric is Metric.COMPILE_TIME:  # skip nights that took the binary from the store
            pairs = list({m.build.compiled: (p, m) for p, m in reversed(pairs) if m.build is not None}.values())[::-1]
        if at_least is None or not pairs:
            continue
        series = Series(
            tuple(point for point, _ in pairs), metric.scale, higher_is_worse=metric.higher_is_worse, at_least=at_least
        )
        found.append(MetricHistory(job, metric, series, tuple(m for _, m in pairs), find_change_points(series)))
    return tuple(found)


def history_finding(history: MetricHistory, pinned: str | None, recipe: str) -> MetricFinding:
    """Compare tonight's level of a metric with its history.

    Args:
        pinned: when its baseline was pinned; earlier changes are accepted.
        recipe: the recipe's file, for the commands.
    """
    points, change = history.series.points, history.regression
    finding = partial(
        MetricFinding,
        metric=history.metric,
        against=Reference.HISTORY,
        now=points[-1].value,
        at_least=history.series.at_least,
    )
    judged = sum(not point.invalid for point in points)
    if judged < MIN_NIGHTS:
        why = f"{judged} valid nights; at least {MIN_NIGHTS} are required"
        return finding(outcome=FindingOutcome.CANNOT_TELL, because=(why,))
    if change is None or (pinned is not None and history.measured[change.first].made <= pinned):
        return finding(outcome=FindingOutcome.SAME, how=f"no lasting regression in {len(points)} nights")
    found = finding(
        outcome=FindingOutcome.REGRESSION,
        before=change.before,
        change=change.size,
        how=f"change of level in {len(points)} nights",
    )
    good, bad = history.measured[change.last_before], history.measured[change.first]
    return with_evidence(found, good, bad, recipe, since=bad.made, last_good=good.made)


def _point(metric: Metric, m: Measurement) -> Point | None:
    """Return a measurement as a point, with board and temperature only if the metric depends on them."""
    value = metric.value_in(m)
    if value is None or (value <= 0 and metric is not Metric.TOP1):
        return None
    at = datetime.fromisoformat(m.made)
    if metric.is_latency:
        return Point(at, value, m.board_id, hottest(m.conditions), bool(m.invalidating))
    return Point(at, value, m.board_id if metric is Metric.MEMORY else "")
