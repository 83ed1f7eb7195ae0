"""Nights and histories as they could be, for tests that draw, write or send them: seeded, never measured."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bpudeploy.nightly.change_points import ChangePoint, find_change_points, latest_regression
from bpudeploy.nightly.history import MetricHistory
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import BoardFault, FindingOutcome, JobResult, JobState, MetricFinding, Night, Reference
from bpudeploy.nightly.series import Point, Series
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Caveat, Interval
from tests.results.factories import measurement

BEGAN = datetime(2026, 11, 27, 22, 0, tzinfo=UTC)
LEVELS = {
    Metric.TOP1: 79.5,
    Metric.P50: 5.0,
    Metric.P99: 7.0,
    Metric.SIZE: 6.1,
    Metric.MEMORY: 212.0,
    Metric.COMPILE_TIME: 91.0,
}
AT_LEAST = {Metric.TOP1: 0.5, Metric.P50: 3.0, Metric.P99: 10.0, Metric.SIZE: 1.0, Metric.MEMORY: 10.0}
_A_MEASUREMENT = measurement()


def at(night: int, of: int = 1) -> datetime:
    """Return when one of so many nights was; the last of them is tonight."""
    return BEGAN - timedelta(days=of - 1 - night)


def history(
    job: str = "deit-tiny@rdk-x5",
    metric: Metric = Metric.P50,
    *,
    nights: int = 60,
    step: float = 0.0,
    since: int | None = None,
    boards: Sequence[str] = ("0x1234",),
    invalid: Sequence[int] = (),
    missing: Sequence[int] = (),
    noise: float = 0.5,
    seed: int = 0,
) -> MetricHistory:
    """Return a history around the metric's level, which is ``step`` percent higher from night ``since`` on.

    Args:
        boards: taken in turns; each of them is a little off.
        invalid: nights with a quarter more.
        missing: nights that were none.
        noise: percent, one standard deviation.
    """
    rng = random.Random(f"{seed} {job} {metric}")
    points = []
    for night in range(nights):
        percent = rng.gauss(0, noise) + 1.5 * (night % len(boards))
        percent += step * (since is not None and night >= since) + 25 * (night in invalid)
        if night not in missing:
            value = LEVELS[metric] * (1 + percent / 100)
            points.append(Point(at(night, nights), value, boards[night % len(boards)], 60.0, night in invalid))
    series = Series(
        tuple(points),
        metric.scale,
        higher_is_worse=metric.higher_is_worse,
        at_least=AT_LEAST.get(metric, 50.0),
    )
    measured = tuple(
        _A_MEASUREMENT.model_copy(
            update={"made": point.at.isoformat(), "board": f"x5-{point.board}", "board_id": point.board}
        )
        for point in points
    )
    return MetricHistory(job, metric, series, measured, find_change_points(series))


def regression_in(series: Series) -> ChangePoint | None:
    """Return the latest regression among the series' change points."""
    return latest_regression(find_change_points(series))


def finding(metric: Metric = Metric.P50, outcome: FindingOutcome = FindingOutcome.SAME, **fields: Any) -> MetricFinding:
    """Return a finding against the baseline; of a regression, with all that is known of one."""
    size = {FindingOutcome.REGRESSION: 5.2, FindingOutcome.IMPROVEMENT: -4.0, FindingOutcome.SAME: 0.3}.get(outcome)
    if metric is Metric.TOP1 and size is not None:
        size = -size / 4
    before = LEVELS[metric]
    now = before if size is None else before + size if metric is Metric.TOP1 else before * (1 + size / 100)
    known: dict[str, Any] = {
        "metric": metric,
        "against": Reference.BASELINE,
        "outcome": outcome,
        "now": now,
        "before": before,
        "change": Interval(value=size, low=size - 0.9, high=size + 0.9) if size is not None else None,
        "at_least": AT_LEAST.get(metric, 50.0),
        "how": "interleaved with the pinned release on x5-lab1-003, 20 pairs of rounds",
    }
    if outcome is FindingOutcome.CANNOT_TELL:
        known |= {"because": ("2 sessions of the pinned release on x5-lab1-003; at least 5 are required",), "how": ""}
    if outcome is FindingOutcome.REGRESSION:
        known |= {
            "since": at(7, 12).isoformat(),
            "last_good": at(6, 12).isoformat(),
            "because": ("confirmed by a second measurement",),
            "changed": (
                "quantize: options.method: kl -> max",
                "onnx on the host: 1.18.0 -> 1.19.0",
                "recipe commit: 3f2a91c07d4e -> 9b1f00aa12cd",
            ),
            "reproduce": (
                "bpudeploy bench 9b1f00aa12cd --against 3f2a91c07d4e --board x5-lab1-003",
                "bpudeploy bisect recipes/deit-tiny.yaml --good 3f2a91c07d4e --bad 9b1f00aa12cd --board x5-lab1-003",
            ),
        }
    return MetricFinding(**(known | fields))


def job(name: str = "deit-tiny@rdk-x5", findings: Sequence[MetricFinding] = (), **fields: Any) -> JobResult:
    """Return a job that was measured."""
    recipe, _, target = name.partition("@")
    known: dict[str, Any] = {
        "job": name,
        "recipe": recipe,
        "target": target,
        "value": 1.0,
        "state": JobState.MEASURED,
        "board": "x5-lab1-003",
        "board_id": "0x1234",
        "session": "2026-11-27T22-04-00",
        "release": "9b1f00aa12cd" + "0" * 52,
        "baseline": "3f2a91c07d4e" + "1" * 52,
        "provenance": Provenance.MEASURED,
        "figures": dict(LEVELS),
        "p50_ms": Interval(value=LEVELS[Metric.P50], low=4.96, high=5.05),
        "findings": tuple(findings),
        "build_seconds": 91.0,
        "board_seconds": 240.0,
    }
    return JobResult(**(known | fields))


def unmeasured(name: str, state: JobState, why: str, **fields: Any) -> JobResult:
    """Return a job that gave no figure."""
    nothing: dict[str, Any] = {"board": None, "board_id": None, "session": None, "release": None, "provenance": None}
    nothing |= {"figures": {}, "p50_ms": None, "board_seconds": 0.0}
    return job(name, state=state, why=why, **(nothing | fields))


def night(jobs: Sequence[JobResult] = (), **fields: Any) -> Night:
    """Return a night that came to its end."""
    known: dict[str, Any] = {
        "suite": "nightly",
        "file": "suite.yaml",
        "began": BEGAN.isoformat(timespec="seconds"),
        "ended": (BEGAN + timedelta(hours=3, minutes=12)).isoformat(timespec="seconds"),
        "budget_minutes": 480.0,
        "commit": "9b1f00aa12cd34567890" * 2,
        "jobs": tuple(jobs),
        "versions": {"bpudeploy": "0.9.0", "onnx": "1.19.0"},
    }
    return Night(**(known | fields))


def calm() -> Night:
    """Return a night without news: simulated, measured, and one whose baseline is too young."""
    return night(
        [
            job(findings=[finding(), finding(Metric.TOP1)]),
            job(
                "vit-small@sim-x5",
                [finding(Metric.TOP1)],
                provenance=Provenance.SIMULATED,
                board="this machine",
                figures={Metric.TOP1: 79.5, Metric.SIZE: 22.0},
                p50_ms=None,
            ),
            job("swin-tiny@rdk-x5", [finding(outcome=FindingOutcome.CANNOT_TELL)]),
            job("resnet18@rdk-x5", [finding(outcome=FindingOutcome.IMPROVEMENT), finding(Metric.TOP1)]),
        ]
    )


def troubled() -> Night:
    """Return a night with all that can go wrong."""
    fault = BoardFault(board="x5-lab1-002", at="2026-11-27T22:31:08+00:00", said="connect: no route to host")
    top1 = finding(
        Metric.TOP1, FindingOutcome.REGRESSION, how="paired on the same 1000 images: 31 lost, 18 gained, p = 0.03"
    )
    of_history = finding(
        outcome=FindingOutcome.REGRESSION,
        against=Reference.HISTORY,
        how="change of level in 60 nights",
        since=at(48, 60).isoformat(),
    )
    return night(
        [
            job(
                findings=[finding(outcome=FindingOutcome.REGRESSION), of_history, top1, finding(Metric.SIZE)],
                figures=LEVELS | {Metric.P50: 5.26, Metric.TOP1: 78.2},
                p50_ms=Interval(value=5.26, low=5.23, high=5.30),
                caveats=(Caveat.NOISY,),
                faults=(fault,),
            ),
            job("resnet18@rdk-x5", [finding(outcome=FindingOutcome.CANNOT_TELL), finding(Metric.TOP1)]),
            unmeasured("swin-tiny@rdk-x5", JobState.BUILD_FAILED, "hb_mapper: node 'Roll_3' is not supported (see it)"),
            unmeasured("vit-base@rdk-s100", JobState.NO_BOARD, "all 2 boards are off", faults=(fault, fault)),
            unmeasured("visformer@rdk-x5", JobState.LEFT_OUT, "it takes 50 min, but only 35 min were left"),
            job("mobilevit@rdk-x5", baseline=None),
        ],
        quarantine={
            "x5-lab1-002": "3 board faults in the last 5 nights, the latest on 2026-11-27: no route to host",
            "x5-lab2-001": "excluded manually: its fan is broken",
        },
    )


def cut_off() -> Night:
    """Return a night that was stopped."""
    return night([unmeasured("deit-tiny@rdk-x5", JobState.RUNNING, "")], ended=None, commit=None, versions={})


def hostile(name: str, words: str) -> Night:
    """Return a night whose every text is ``name`` or ``words``."""
    of = finding(
        outcome=FindingOutcome.REGRESSION, how=words, because=(words,), changed=(words, words), reproduce=(words, name)
    )
    return night(
        [
            job(
                name,
                [of, finding(Metric.TOP1, FindingOutcome.CANNOT_TELL, because=(words,))],
                recipe=name,
                target=name,
                board=name,
                board_id=name,
                session=name,
                release=name,
                baseline=name,
                why=words,
                faults=(BoardFault(board=name, at="2026-11-27T22:31:08+00:00", said=words),),
            ),
            unmeasured(name + "@2", JobState.BUILD_FAILED, words),
        ],
        suite=name,
        file=name,
        commit=name,
        quarantine={name: words},
        versions={name: words},
    )


def large(jobs: int = 30, nights: int = 400) -> tuple[Night, list[MetricHistory]]:
    """Return a night of many jobs and their histories, a tenth of them with a regression."""
    found, told = [], []
    for number in range(jobs):
        name, bad = f"model-{number:02}@rdk-x5", number % 10 == 3
        outcomes = {Metric.P50: FindingOutcome.REGRESSION} if bad else {}
        found.append(job(name, [finding(metric, outcomes.get(metric, FindingOutcome.SAME)) for metric in Metric]))
        for metric in Metric:
            worse = 6.0 if bad and metric is Metric.P50 else 0.0
            told.append(history(name, metric, nights=nights, step=worse, since=nights - 12, boards=("a", "b", "c")))
    return night(found), told


EVERY: Mapping[str, Callable[[], Night]] = {
    "calm": calm,
    "troubled": troubled,
    "cut off": cut_off,
    "empty": night,
    "hostile": lambda: hostile("<b>|`x`\n", "\x00]]>&amp; | ``` </details> \ud7ff\uffff"),
}
