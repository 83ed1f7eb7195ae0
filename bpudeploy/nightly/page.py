"""HTML pages: one self-contained file per night, and an index of all nights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from bpudeploy.digest import short
from bpudeploy.errors import ExitCode
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
from bpudeploy.nightly.night import FindingOutcome, JobState, Night
from bpudeploy.nightly.plots import regression_plot, small_plot
from bpudeploy.results.drawing import Plot, format_duration, page

MAX_PLOTS = 40
"""Plots of metrics without a regression, to limit the size of the page."""
MAX_REGRESSION_PLOTS = 24
MAX_GRID_NIGHTS = 60
_PLOTTED = (Metric.P50, Metric.TOP1)
_EXIT_CODES = {
    ExitCode.OK: ("pass", "good"),
    ExitCode.CHECK: ("regression", "bad"),
    ExitCode.STAGE: ("a build failed", "bad"),
    ExitCode.BOARD: ("no board", "odd"),
    ExitCode.INTERRUPTED: ("running or interrupted", "odd"),
}
"""Text and CSS class of each exit code of a night."""


def night_page(night: Night, histories: Sequence[MetricHistory]) -> str:
    """Return a night as one self-contained HTML page, deterministic.

    Plots are limited to regressions and the p50 and top-1 of other jobs, at most ``MAX_PLOTS`` of them; the page says
    what is omitted.
    """
    found = {(history.job, history.metric): history for history in histories}
    regressions = [
        (job, metric, [finding for finding in job.regressions if finding.metric is metric])
        for job in night.jobs
        for metric in dict.fromkeys(finding.metric for finding in job.regressions)
    ]
    regression_plots = {
        (job.job, metric): regression_plot(found[job.job, metric], job)
        for job, metric, _ in regressions[:MAX_REGRESSION_PLOTS]
        if (job.job, metric) in found
    }
    plots, words = _small_plots(night, found, regression_plots.keys())
    values = {
        "night": night,
        "verdict": night_verdict(night),
        "took": _duration(night),
        "regressions": regressions,
        "regression_plots": regression_plots,
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
    ordered = sorted(nights, key=lambda one: one[1].began, reverse=True)
    suites = dict.fromkeys(night.suite for _, night in ordered)
    values = {
        "nights": ordered,
        "grids": [_grid([night for _, night in ordered if night.suite == suite]) for suite in suites],
        "verdicts": list(JobVerdict),
    }
    return page("index.html.jinja", values, "bpudeploy.nightly", _FILTERS)


def _grid(nights: Sequence[Night]) -> dict[str, object]:
    """Return the verdicts of a suite per job and night."""
    shown = nights[:MAX_GRID_NIGHTS]
    verdicts = [{job.job: job_verdict(job) for job in night.jobs} for night in shown]
    names = dict.fromkeys(name for night in verdicts for name in night)
    return {
        "suite": nights[0].suite,
        "nights": shown,
        "rows": [(name, [night.get(name) for night in verdicts]) for name in names],
        "words": f"The latest {len(shown)} of {len(nights)} nights." if len(nights) > len(shown) else "",
    }


def _small_plots(
    night: Night, found: Mapping[tuple[str, Metric], MetricHistory], plotted: Collection[tuple[str, Metric]]
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
    return format_duration(max(0.0, seconds))


_FILTERS: Mapping[str, Callable[..., object]] = {
    "clock": format_time,
    "short": short,
    "job_verdict": job_verdict,
    "change": format_change,
    "before_after": lambda finding, job: format_before_after(job, finding),
    "value": lambda number, metric: format_value(metric, number),
    "verdict": night_verdict,
    "counts": count_verdicts,
    "meaning": lambda code: _EXIT_CODES[code][0],
    "tone": lambda code: _EXIT_CODES[code][1],
}
