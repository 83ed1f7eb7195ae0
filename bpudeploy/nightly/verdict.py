"""The verdict on a job, against baseline and history: the first bad night, what changed, how to see it again."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.nightly.changed import changed, reproduce
from bpudeploy.nightly.history import against_history, histories, nights_of
from bpudeploy.nightly.judge import Held, against_baseline
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import Against, Finding, JobResult, JobState, Night, Outcome
from bpudeploy.nightly.work import Kit
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.store import Query, Results


def judged(result: JobResult, kit: Kit, held: Sequence[Held], results: Results, nights: Sequence[Night]) -> JobResult:
    """Return a job's result with all that its measurement decides.

    Args:
        held: the looks of tonight, which are in ``results`` already.
        nights: of the past, the latest first.
    """
    m = held[-1].measured
    found = results.find(
        Query(
            recipe=m.subject.recipe,
            target=m.subject.target,
            provenance=m.provenance,
            with_samples=False,
        )
    )
    suite = str(m.night).partition("/")[0]
    pinned = kit.baseline.pinned if kit.baseline is not None else None
    of_history = [
        against_history(one, pinned, kit.recipe)
        for one in histories(result.job, nights_of(found, suite), kit.checks)
        if one.measured[-1].session == m.session  # else tonight has no such figure
    ]
    of_baseline = [
        _explained(finding, kit, m, found, nights, result.job)
        for finding in against_baseline(held, kit.baseline, kit.checks)
    ]
    known = {
        "state": JobState.MEASURED,
        "board_id": m.board_id,
        "session": m.session,
        "provenance": m.provenance,
        "figures": {metric: value for metric in Metric if (value := metric.of(m)) is not None},
        "p50_ms": m.latency.p50_ms if m.latency is not None and Metric.P50.of(m) is not None else None,
        "caveats": m.caveats,
        "findings": (*of_baseline, *of_history),
    }
    return result.model_copy(update=known)


def _explained(
    finding: Finding,
    kit: Kit,
    now: Measurement,
    found: Sequence[Measurement],
    nights: Sequence[Night],
    job: str,
) -> Finding:
    """Add to a regression since when it is there, what changed since the pinned release, and how to see it."""
    baseline = kit.baseline
    if finding.outcome is not Outcome.REGRESSION or baseline is None:
        return finding
    pinned = next((m for m in found if m.subject.release == baseline.release and m.session != now.session), None)
    pinned = pinned or next((m for m in found if m.subject.release == baseline.release), None)
    since, last_good = since_when(finding.metric, nights, job)
    return finding.model_copy(
        update={
            "since": since or now.made,
            "last_good": last_good,
            "changed": changed(pinned, now) if pinned is not None else (),
            "reproduce": reproduce(pinned, now, kit.recipe) if pinned is not None else (),
        }
    )


def since_when(metric: Metric, nights: Sequence[Night], job: str) -> tuple[str | None, str | None]:
    """Return when the nights up to now began that said regression, and the last night before that said otherwise."""
    first = None
    for night in nights:
        one = next((one for one in night.jobs if one.job == job), None)
        if one is None or one.state is not JobState.MEASURED:
            continue
        told = next((f for f in one.findings if f.metric is metric and f.against is Against.BASELINE), None)
        if told is not None and told.outcome is Outcome.CANNOT_TELL:
            continue
        if told is None or told.outcome is not Outcome.REGRESSION:
            return first, night.began
        first = told.since or night.began
    return first, None
