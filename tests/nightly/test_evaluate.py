"""The verdict on a job from a real store of results: accuracy is paired with the release before, on its first night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpudeploy import Measurement
from bpudeploy.nightly.baseline import Baseline, baseline_of
from bpudeploy.nightly.baseline_findings import JobMeasurement
from bpudeploy.nightly.evaluate import evaluate
from bpudeploy.nightly.measure_job import JobRelease
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, MetricFinding, Reference
from bpudeploy.results.measurement import Answers
from bpudeploy.results.store import Results, open_results
from bpudeploy.spec.suite import NightlyChecks
from tests.nightly.test_baseline_findings import flipped
from tests.results import factories as made

CHECKS = NightlyChecks(p50=None, p99=None, size=None, memory=None, compile_time=None)
GOOD = made.answers(0, 0.8)


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    with open_results(str(tmp_path / "results.sqlite")) as opened:
        yield opened


def night(number: int, release: str, answers: Answers) -> Measurement:
    subject = made.subject().model_copy(update={"release": release * 64})
    one = made.measurement(seed=number, hours=24 * number, subject=subject, answers=answers, score=made.score(answers))
    return one.model_copy(update={"night": f"lab/{number:03}"})


def top1(results: Results, m: Measurement, baseline: Baseline | None = None) -> MetricFinding | None:
    """Append a night and return what is said of its accuracy against history."""
    results.append([m])
    release = JobRelease("vit.yaml", None, None, baseline, None, CHECKS)  # type: ignore[arg-type]
    blank = JobResult(job="vit-tiny@rdk-x5", recipe="vit-tiny", target="rdk-x5", value=1, state=JobState.RUNNING)
    told = evaluate(blank, release, [JobMeasurement(m, None)], results, [])
    assert told.state is JobState.MEASURED and told.session == m.session
    of_history = [f for f in told.findings if f.against is Reference.HISTORY and f.metric is Metric.TOP1]
    return of_history[0] if of_history else None


def test_a_release_that_loses_answers_is_told_on_its_first_night_and_as_long_as_it_stays(results: Results) -> None:
    first = top1(results, night(0, "a", GOOD))
    assert first is not None and first.outcome is FindingOutcome.CANNOT_TELL, "there is nothing before it"
    worse = flipped(GOOD, 15)
    found = top1(results, night(1, "b", worse))
    assert found is not None and found.outcome is FindingOutcome.REGRESSION and "15 lost, 0 gained" in found.how
    assert found.change is not None and found.change.high < 0
    assert found.since == night(1, "b", worse).made and found.last_good == night(0, "a", GOOD).made
    assert found.reproduce[0].startswith(f"bpudeploy bench {'b' * 12} --against {'a' * 12}")
    again = top1(results, night(2, "b", worse))
    assert again is not None and again.outcome is FindingOutcome.REGRESSION and again.since == found.since
    mended = top1(results, night(3, "c", GOOD))
    assert mended is not None and mended.outcome is FindingOutcome.IMPROVEMENT


def test_a_release_that_answers_the_same_is_the_same_without_a_row_of_nights(results: Results) -> None:
    top1(results, night(0, "a", GOOD))
    found = top1(results, night(1, "b", GOOD))
    assert found is not None and found.outcome is FindingOutcome.SAME and "0 lost, 0 gained" in found.how


def test_other_images_and_a_pinned_release_are_not_held_against_the_night_before(results: Results) -> None:
    top1(results, night(0, "a", GOOD))
    other = flipped(GOOD, 15).model_copy(update={"samples": "f" * 64})
    found = top1(results, night(1, "b", other))
    assert found is not None and found.outcome is FindingOutcome.CANNOT_TELL, "only a row of nights could tell"
    worse = night(2, "c", flipped(GOOD, 15))
    accepted = baseline_of("vit-tiny@rdk-x5", [worse], "2026-02-01T00:00:00+00:00", "we know")
    pinned = top1(results, worse, accepted)
    assert pinned is not None and pinned.outcome is FindingOutcome.CANNOT_TELL
