"""A night as OpenMetrics 1.0 text that Prometheus's node exporter can read from a file.

The node exporter's textfile collector reads the older text format 0.0.4 (``expfmt.TextParser``): it ignores lines that
begin with ``# UNIT`` or ``# EOF``, does not know the types ``stateset`` and ``info``, and rejects files with timestamps
or duplicate series. So everything is a gauge, states are 0 or 1, and no sample has a timestamp. Help texts are constant
and every series has a suite label, so that files of several suites can be in one folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, Night

if TYPE_CHECKING:
    from prometheus_client.core import Metric as PrometheusMetric

PREFIX = "bpudeploy_nightly"
_FAMILIES = {
    "last_run_timestamp_seconds": "When the last night ended, or began if it was interrupted.",
    "duration_seconds": "Duration of the last night.",
    "complete": "Whether the last night was completed.",
    "exit_code": "Exit code of the last night: 0 pass, 4 regression, 3 a build failed, 5 no board, 130 interrupted.",
    "regressions": "Number of regressions.",
    "jobs": "Number of jobs per state.",
    "quarantined_boards": "Number of boards in quarantine.",
    "job_state": "1 for the state of a job.",
    "verdict": "1 for the outcome of comparing a metric of a job with its baseline or its history.",
    "change_ratio": "Relative change of a metric; for top-1, the difference of the ratios.",
    "change_low_ratio": "Lower end of the 95 % interval of the change.",
    "change_high_ratio": "Upper end of the 95 % interval of the change.",
    "latency_seconds": "Latency per frame on the board.",
    "latency_low_seconds": "Lower end of the 95 % interval of the latency, if known.",
    "latency_high_seconds": "Upper end of the 95 % interval of the latency, if known.",
    "top1_ratio": "Top-1 accuracy as a ratio.",
    "binary_size_bytes": "Size of the binary.",
    "memory_bytes": "Peak memory of the measuring process on the board.",
    "compile_time_seconds": "Compile time of the binary.",
}
"""Help text per name, in the order of the file; the last word of a name may be its unit."""
_UNITS = ("seconds", "ratio", "bytes")
_OF_METRIC = {
    Metric.TOP1: ("top1_ratio", 0.01, {}),
    Metric.P50: ("latency_seconds", 1e-3, {"percentile": "50"}),
    Metric.P99: ("latency_seconds", 1e-3, {"percentile": "99"}),
    Metric.SIZE: ("binary_size_bytes", 1e6, {}),
    Metric.MEMORY: ("memory_bytes", 1e6, {}),
    Metric.COMPILE_TIME: ("compile_time_seconds", 1.0, {}),
}
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_Sample = tuple[str, Mapping[str, str], float]
"""Family, labels and value."""


def to_openmetrics(nights: Sequence[Night] | Night) -> str:
    """Return the metrics of a night, or of the newest night of each suite, as series must be unique."""
    from prometheus_client.openmetrics.exposition import generate_latest

    several = [nights] if isinstance(nights, Night) else nights
    latest = {night.suite: night for night in sorted(several, key=lambda night: night.began)}
    return str(generate_latest(SimpleNamespace(collect=lambda: _families(latest.values()))).decode())


def _families(nights: Iterable[Night]) -> list[PrometheusMetric]:
    from prometheus_client.core import GaugeMetricFamily

    found = {}
    for family, help_ in _FAMILIES.items():
        unit = family.rpartition("_")[2]
        found[family] = GaugeMetricFamily(f"{PREFIX}_{family}", help_, unit=unit if unit in _UNITS else "")
    for family, labels, value in (sample for night in nights for sample in _samples(night)):
        if math.isfinite(value):
            clean = {name: _CONTROL.sub("\ufffd", text) for name, text in labels.items()}
            found[family].add_sample(found[family].name, clean, value)
    return [one for one in found.values() if one.samples]


def _samples(night: Night) -> Iterator[_Sample]:
    suite = {"suite": night.suite}
    began = datetime.fromisoformat(night.began).timestamp()
    ended = datetime.fromisoformat(night.ended).timestamp() if night.ended is not None else None
    yield "last_run_timestamp_seconds", suite, began if ended is None else ended
    if ended is not None:
        yield "duration_seconds", suite, ended - began
    yield "complete", suite, float(ended is not None)
    yield "exit_code", suite, float(night.exit_code)
    yield "regressions", suite, float(len(night.regressions))
    states = [job.state for job in night.jobs]
    for state in JobState:
        yield "jobs", {**suite, "state": state.value}, float(states.count(state))
    yield "quarantined_boards", suite, float(len(night.quarantine))
    for job in night.jobs:
        yield from _of_job(job, {**suite, "job": job.job})


def _of_job(job: JobResult, labels: Mapping[str, str]) -> Iterator[_Sample]:
    for state in JobState:
        yield "job_state", {**labels, "state": state.value}, float(job.state is state)
    for finding in job.findings:
        of = {**labels, "metric": finding.metric.value, "against": finding.against.value}
        for outcome in FindingOutcome:
            yield "verdict", {**of, "outcome": outcome.value}, float(finding.outcome is outcome)
        change = finding.change
        if change is not None:
            for family, value in (("", change.value), ("low_", change.low), ("high_", change.high)):
                yield f"change_{family}ratio", of, value / 100
    measured = {**labels, "board": job.board or "", "provenance": job.provenance.value if job.provenance else ""}
    for metric, value in job.figures.items():
        family, factor, more = _OF_METRIC[metric]
        yield family, {**measured, **more}, value * factor
    if job.p50_ms is not None:
        of = {**measured, "percentile": "50"}
        yield "latency_low_seconds", of, job.p50_ms.low / 1e3
        yield "latency_high_seconds", of, job.p50_ms.high / 1e3
