"""The pages of the nights: one file a night, its plots inside, and one that leads to all of them; they load nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bpudeploy.digest import short
from bpudeploy.errors import ExitCode
from bpudeploy.fleet.history import format_duration as lasting
from bpudeploy.nightly.history import History
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import Fault, Finding, JobResult, JobState, Night, Outcome
from bpudeploy.nightly.plots import regression_plot, small_plot
from bpudeploy.nightly.words import (
    Standing,
    change_of,
    clock,
    counts_of,
    standing_of,
    step_of,
    value_of,
    verdict_of,
)
from bpudeploy.results.drawing import Plot, page

MOST_PLOTS = 40
"""Of the metrics that did not get worse; more of them make a page of megabytes."""
MOST_WORSE = 24
"""Regressions that have a plot of their own."""
MOST_NIGHTS = 60
"""The latest ones that the grid of all nights shows."""
_PLOTTED = (Metric.P50, Metric.TOP1)
_SHORT = {
    Metric.TOP1: "top-1",
    Metric.P50: "p50",
    Metric.P99: "p99",
    Metric.SIZE: "binary",
    Metric.MEMORY: "memory",
    Metric.COMPILE_TIME: "compile",
}
_MEANINGS = {
    ExitCode.OK: "pass",
    ExitCode.CHECK: "regression",
    ExitCode.STAGE: "a build failed",
    ExitCode.BOARD: "no board",
    ExitCode.INTERRUPTED: "not over, or cut off",
}
_TONES = {ExitCode.OK: "good", ExitCode.CHECK: "bad", ExitCode.STAGE: "bad"}


@dataclass(frozen=True)
class _Worse:
    """A metric of a job that got worse: what is known from the baseline, from the history, or from both."""

    job: JobResult
    metric: Metric
    findings: tuple[Finding, ...]
    plot: Plot | None


@dataclass(frozen=True)
class _Column:
    """A night in the list and in the grid."""

    link: str
    night: Night

    @property
    def tone(self) -> str:
        return _TONES.get(self.night.exit_code, "odd")

    @property
    def meaning(self) -> str:
        return _MEANINGS.get(self.night.exit_code, str(int(self.night.exit_code)))

    @property
    def measured(self) -> int:
        return sum(job.state is JobState.MEASURED for job in self.night.jobs)

    @property
    def standings(self) -> Mapping[str, Standing]:
        return {job.job: standing_of(job) for job in self.night.jobs}


@dataclass(frozen=True)
class _Grid:
    """The jobs of a suite, night by night, the latest first."""

    suite: str
    columns: tuple[_Column, ...]
    rows: tuple[tuple[str, tuple[Standing | None, ...]], ...]
    words: str


def night_page(night: Night, histories: Sequence[History]) -> str:
    """Return a night as one self-contained HTML page: the verdict, what got worse and how that is known, and the rest.

    The same night, the same bytes. Of a large suite only the plots that help are drawn: those of what got worse, and
    of the others p50 and top-1, ``MOST_PLOTS`` of them; the page says what is not drawn.
    """
    found = {(history.job, history.metric): history for history in histories}
    worse = _worse(night, found)
    shown = {(one.job.job, one.metric) for one in worse if one.plot is not None}
    plots, words = _small(night, found, shown)
    values = {
        "night": night,
        "column": _Column("", night),
        "verdict": verdict_of(night),
        "counts": counts_of(night),
        "took": _took(night),
        "worse": worse,
        "unmeasured": [job for job in night.jobs if job.state is not JobState.MEASURED],
        "untold": [(job, f) for job in night.jobs for f in job.findings if f.outcome is Outcome.CANNOT_TELL],
        "faults": _faults(night),
        "plots": plots,
        "plots_words": words,
        "metrics": _SHORT,
    }
    return page("night.html.jinja", values, "bpudeploy.nightly", _FILTERS)


def index_page(nights: Sequence[tuple[str, Night]]) -> str:
    """Return the page that leads to every night, the latest first.

    Args:
        nights: each with the link to its report, relative to this page; empty: it has none.
    """
    columns = [_Column(link, night) for link, night in sorted(nights, key=lambda one: one[1].began, reverse=True)]
    suites = dict.fromkeys(column.night.suite for column in columns)
    values = {
        "columns": columns,
        "grids": [_grid(suite, [column for column in columns if column.night.suite == suite]) for suite in suites],
        "standings": list(Standing),
    }
    return page("index.html.jinja", values, "bpudeploy.nightly", _FILTERS)


def _grid(suite: str, columns: Sequence[_Column]) -> _Grid:
    shown = tuple(columns[:MOST_NIGHTS])
    words = f"The latest {MOST_NIGHTS} of {len(columns)} nights." if len(columns) > MOST_NIGHTS else ""
    told = [column.standings for column in shown]
    jobs = dict.fromkeys(name for standings in told for name in standings)
    rows = tuple((name, tuple(standings.get(name) for standings in told)) for name in jobs)
    return _Grid(suite, shown, rows, words)


def _worse(night: Night, found: Mapping[tuple[str, Metric], History]) -> list[_Worse]:
    grouped: dict[tuple[str, Metric], list[Finding]] = {}
    jobs = {job.job: job for job in night.jobs}
    for job, finding in night.regressions:
        grouped.setdefault((job.job, finding.metric), []).append(finding)
    worse = []
    for number, ((name, metric), findings) in enumerate(grouped.items()):
        history = found.get((name, metric)) if number < MOST_WORSE else None
        plot = regression_plot(history, jobs[name]) if history is not None else None
        worse.append(_Worse(jobs[name], metric, tuple(findings), plot))
    return worse


def _small(
    night: Night, found: Mapping[tuple[str, Metric], History], shown: set[tuple[str, Metric]]
) -> tuple[list[Plot], str]:
    """Return the plots of what did not get worse, and words where something is not drawn."""
    wanted = [
        (job, history)
        for job in night.jobs
        for metric in _PLOTTED
        if (job.job, metric) not in shown and (history := found.get((job.job, metric))) is not None
    ]
    others = len(found) - len(shown) - len(wanted)
    told = ["p50 and top-1 of each job, night by night."]
    if len(wanted) > MOST_PLOTS:
        told.append(f"The first {MOST_PLOTS} of {len(wanted)}; the rest have no plot here.")
    if others > 0:
        told.append(f"Not drawn, for nothing in them got worse: {others} of other metrics.")
    return [small_plot(history, job) for job, history in wanted[:MOST_PLOTS]], " ".join(told)


def _faults(night: Night) -> list[tuple[JobResult, Fault]]:
    return sorted(((job, fault) for job in night.jobs for fault in job.faults), key=lambda one: one[1].at)


def _took(night: Night) -> str:
    if night.ended is None:
        return "not over, or cut off"
    seconds = (datetime.fromisoformat(night.ended) - datetime.fromisoformat(night.began)).total_seconds()
    return lasting(max(0.0, seconds))


_FILTERS: Mapping[str, Callable[..., object]] = {
    "clock": clock,
    "short": short,
    "lasting": lasting,
    "standing": standing_of,
    "change": change_of,
    "step": lambda finding, job: step_of(job, finding),
    "value": lambda number, metric: value_of(metric, number),
    "verdict": verdict_of,
    "counts": counts_of,
}
