"""HTML pages: one self-contained file per night, and an index of all nights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bpudeploy.digest import short
from bpudeploy.errors import ExitCode
from bpudeploy.fleet.chronicle import lasting
from bpudeploy.nightly.formatting import (
    JobVerdict,
    count_verdicts,
    format_before_after,
    format_change,
    format_time,
    format_value,
    job_verdict,
    night_verdict,
)
from bpudeploy.nightly.history import MetricHistory
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, MetricFinding, Night
from bpudeploy.nightly.plots import regression_plot, small_plot
from bpudeploy.results.drawing import Plot, page

MAX_PLOTS = 40
"""Plots of metrics without a regression, to limit the size of the page."""
MAX_REGRESSION_PLOTS = 24
MAX_GRID_NIGHTS = 60
_PLOTTED = (Metric.P50, Metric.TOP1)
_MEANINGS = {
    ExitCode.OK: "pass",
    ExitCode.CHECK: "regression",
    ExitCode.STAGE: "a build failed",
    ExitCode.BOARD: "no board",
    ExitCode.INTERRUPTED: "running or interrupted",
}
_TONES = {ExitCode.OK: "good", ExitCode.CHECK: "bad", ExitCode.STAGE: "bad"}


@dataclass(frozen=True)
class _Regression:
    """A metric of a job that is worse than its baseline, its history, or both."""

    job: JobResult
    metric: Metric
    findings: tuple[MetricFinding, ...]
    plot: Plot | None


@dataclass(frozen=True)
class _NightColumn:
    """A night in the list and in the grid."""

    link: str
    night: Night

    @property
    def tone(self) -> str:
        return _TONES.get(self.night.exit_code, "odd")

    @property
    def meaning(self) -> str:
        return _MEANINGS.get(self.night.exit_code, str(int(self.night.exit_code)))


@dataclass(frozen=True)
class _Grid:
    """Verdicts per job and night, newest first."""

    suite: str
    columns: Sequence[_NightColumn]
    rows: Sequence[tuple[str, Sequence[JobVerdict | None]]]
    words: str


def night_page(night: Night, histories: Sequence[MetricHistory]) -> str:
    """Return a night as one self-contained HTML page, deterministic.

    Plots are limited to regressions and the p50 and top-1 of other jobs, at most ``MAX_PLOTS`` of them; the page says
    what is omitted.
    """
    found = {(history.job, history.metric): history for history in histories}
    regressions = _regressions(night, found)
    plotted = {(one.job.job, one.metric) for one in regressions if one.plot is not None}
    plots, words = _small_plots(night, found, plotted)
    values = {
        "night": night,
        "column": _NightColumn("", night),
        "verdict": night_verdict(night),
        "counts": count_verdicts(night),
        "took": _duration(night),
        "regressions": regressions,
        "unmeasured": [job for job in night.jobs if job.state is not JobState.MEASURED],
        "unknown": [(job, f) for job in night.jobs for f in job.findings if f.outcome is FindingOutcome.CANNOT_TELL],
        "faults": sorted(((job, fault) for job in night.jobs for fault in job.faults), key=lambda one: one[1].at),
        "plots": plots,
        "plots_words": words,
        "metrics": list(Metric),
    }
    return page("night.html.jinja", values, "bpudeploy.nightly", _FILTERS)


def index_page(nights: Sequence[tuple[str, Night]]) -> str:
    """Return the index of all nights, newest first.

    Args:
        nights: each with the link to its report relative to this page, or "" if it has none.
    """
    columns = [_NightColumn(link, night) for link, night in sorted(nights, key=lambda one: one[1].began, reverse=True)]
    suites = dict.fromkeys(column.night.suite for column in columns)
    values = {
        "columns": columns,
        "grids": [_grid(suite, [column for column in columns if column.night.suite == suite]) for suite in suites],
        "verdicts": list(JobVerdict),
    }
    return page("index.html.jinja", values, "bpudeploy.nightly", _FILTERS)


def _grid(suite: str, columns: Sequence[_NightColumn]) -> _Grid:
    shown = columns[:MAX_GRID_NIGHTS]
    words = f"The latest {MAX_GRID_NIGHTS} of {len(columns)} nights." if len(columns) > MAX_GRID_NIGHTS else ""
    verdicts = [{job.job: job_verdict(job) for job in column.night.jobs} for column in shown]
    names = dict.fromkeys(name for night in verdicts for name in night)
    return _Grid(suite, shown, [(name, [night.get(name) for night in verdicts]) for name in names], words)


def _regressions(night: Night, found: Mapping[tuple[str, Metric], MetricHistory]) -> list[_Regression]:
    regressions: list[_Regression] = []
    for job in night.jobs:
        for metric in dict.fromkeys(finding.metric for finding in job.regressions):
            history = found.get((job.job, metric)) if len(regressions) < MAX_REGRESSION_PLOTS else None
            plot = regression_plot(history, job) if history is not None else None
            findings = tuple(finding for finding in job.regressions if finding.metric is metric)
            regressions.append(_Regression(job, metric, findings, plot))
    return regressions


def _small_plots(
    night: Night, found: Mapping[tuple[str, Metric], MetricHistory], plotted: set[tuple[str, Metric]]
) -> tuple[list[Plot], str]:
    """Return the plots of metrics without a regression, and a text that says what is omitted."""
    wanted = [
        (job, history)
        for job in night.jobs
        for metric in _PLOTTED
        if (job.job, metric) not in plotted and (history := found.get((job.job, metric))) is not None
    ]
    others = len(found) - len(plotted) - len(wanted)
    words = ["p50 and top-1 of each job per night."]
    if len(wanted) > MAX_PLOTS:
        words.append(f"The first {MAX_PLOTS} of {len(wanted)}; the rest are not plotted.")
    if others > 0:
        words.append(f"Not plotted: {others} other metrics without a regression.")
    return [small_plot(history, job) for job, history in wanted[:MAX_PLOTS]], " ".join(words)


def _duration(night: Night) -> str:
    if night.ended is None:
        return "running or interrupted"
    seconds = (datetime.fromisoformat(night.ended) - datetime.fromisoformat(night.began)).total_seconds()
    return lasting(max(0.0, seconds))


_FILTERS: Mapping[str, Callable[..., object]] = {
    "clock": format_time,
    "short": short,
    "lasting": lasting,
    "job_verdict": job_verdict,
    "change": format_change,
    "step": lambda finding, job: format_before_after(job, finding),
    "value": lambda number, metric: format_value(metric, number),
    "verdict": night_verdict,
    "counts": count_verdicts,
}
