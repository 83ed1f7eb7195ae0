"""Against a pinned baseline: what is a regression, what is none, and what nobody can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy import Measurement
from bpudeploy.errors import UsageError
from bpudeploy.nightly.baseline import Baseline, baseline_file, baseline_of, read_baseline, write_baseline
from bpudeploy.nightly.baseline_findings import JobMeasurement, baseline_findings
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, MetricFinding
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Answers, BuildFacts, Caveat, Subject
from bpudeploy.spec.suite import NightlyChecks
from tests.results import factories as made

CHECKS = NightlyChecks()
OLD, NEW = "a" * 64, "b" * 64


def subject(release: str = OLD) -> Subject:
    return made.subject().model_copy(update={"release": release})


def build(size: int = 1_000_000, seconds: float = 10.0, compiled: int = 1) -> BuildFacts:
    return BuildFacts(binary_bytes=size, compiled=compiled, compile_seconds=seconds, commit=None, steps={})


def measured(release: str = OLD, seed: int = 0, **changes: Any) -> Measurement:
    return made.measurement(seed=seed, **({"subject": subject(release), "build": build()} | changes))


def baseline(count: int = 8, **changes: Any) -> Baseline:
    """A pinned release with so many sessions, the latest first as the store gives them."""
    sessions = [measured(seed=seed, hours=seed, **changes) for seed in range(count)]
    return baseline_of("vit@rdk-x5", sessions[::-1], "2026-01-02T00:00:00+00:00", "why not")


def told(
    *held: JobMeasurement, pinned: Baseline | None = None, checks: NightlyChecks = CHECKS
) -> dict[Metric, MetricFinding]:
    found = baseline_findings(held, pinned if pinned is not None else baseline(), checks)
    return {finding.metric: finding for finding in found}


def alone(**changes: Any) -> JobMeasurement:
    return JobMeasurement(measured(**({"seed": 99, "hours": 99} | changes)), None)


def interleaved(p50: float, seed: int = 50, **changes: Any) -> JobMeasurement:
    old, new = measured(seed=seed), measured(NEW, seed=seed + 500, p50=p50, **changes)
    old = old.model_copy(update={"session": "s"})
    new = new.model_copy(update={"session": "s"})
    return JobMeasurement(new, compare([old], [new]))


def test_without_a_baseline_nothing_is_said() -> None:
    assert baseline_findings([alone()], None, CHECKS) == ()


def test_the_same_release_again_is_no_regression() -> None:
    found = told(alone())
    assert {metric for metric, finding in found.items() if finding.outcome is FindingOutcome.REGRESSION} == set()
    assert found[Metric.SIZE].outcome is FindingOutcome.SAME and found[Metric.SIZE].now == 1.0


@pytest.mark.parametrize(("p50", "outcome"), [(6.0, FindingOutcome.REGRESSION), (4.0, FindingOutcome.IMPROVEMENT)])
def test_in_turns_a_change_is_seen_with_its_interval(p50: float, outcome: FindingOutcome) -> None:
    finding = told(interleaved(p50))[Metric.P50]
    assert finding.outcome is outcome and finding.change is not None
    assert finding.change.low <= 100 * (p50 / 5 - 1) + 3 and finding.change.high >= 100 * (p50 / 5 - 1) - 3
    assert "interleaved with the pinned release" in finding.how and "pairs of rounds" in finding.how


def test_a_regression_needs_a_second_look_and_reports_that_one() -> None:
    first, second = interleaved(6.0), interleaved(5.8, seed=60)
    finding = told(first, second)[Metric.P50]
    assert finding.outcome is FindingOutcome.REGRESSION and "confirmed by a second measurement" in finding.because
    assert finding.now == told(second)[Metric.P50].now, "the one that was not chosen for being bad"
    unsure = told(first, interleaved(5.0, seed=60))[Metric.P50]
    assert unsure.outcome is FindingOutcome.CANNOT_TELL and "did not confirm" in unsure.because[-1]


def test_a_change_below_what_the_suite_cares_for_is_none() -> None:
    held = interleaved(5.5)
    assert told(held)[Metric.P50].outcome is FindingOutcome.REGRESSION
    assert told(held, checks=NightlyChecks(p50=20.0))[Metric.P50].outcome is FindingOutcome.SAME
    assert Metric.P50 not in told(held, checks=NightlyChecks(p50=None))


def test_a_throttled_board_tells_nothing_of_latency_and_all_of_the_rest() -> None:
    found = told(alone(p50=9.0, bad={0: Caveat.THROTTLED}))
    assert found[Metric.P50].outcome is FindingOutcome.CANNOT_TELL
    assert Caveat.THROTTLED.meaning in found[Metric.P50].because
    assert found[Metric.SIZE].outcome is FindingOutcome.SAME
    in_a_pair = told(interleaved(9.0, bad={0: Caveat.THROTTLED}))[Metric.P50]
    assert in_a_pair.outcome is FindingOutcome.CANNOT_TELL and in_a_pair.because


def test_measured_alone_one_more_session_is_held_against_how_sessions_differ() -> None:
    far, near = told(alone(p50=9.0))[Metric.P50], told(alone(p50=5.05))[Metric.P50]
    assert far.outcome is FindingOutcome.REGRESSION and "8 sessions of the pinned release on" in far.how
    assert near.outcome in (FindingOutcome.SAME, FindingOutcome.CANNOT_TELL)


def test_too_few_sessions_or_another_board_tell_nothing() -> None:
    few = told(alone(p50=9.0), pinned=baseline(4))[Metric.P50]
    assert few.outcome is FindingOutcome.CANNOT_TELL and "4 sessions" in few.because[0] and few.before is not None
    other = told(alone(p50=9.0, board_id="another"))[Metric.P50]
    assert other.outcome is FindingOutcome.CANNOT_TELL and "0 sessions" in other.because[0] and other.before is None


def flipped(answers: Answers, wrong: int) -> Answers:
    """Return answers of which the first so many right ones are now wrong."""
    top, left = [], wrong
    for one, label in zip(answers.top, answers.labels, strict=True):
        spoil = left > 0 and one[0] == label
        left -= spoil
        top.append((label + 1, *one[1:]) if spoil else one)
    return answers.model_copy(update={"top": tuple(top)})


@pytest.mark.parametrize(
    ("wrong", "outcome"), [(0, FindingOutcome.SAME), (2, FindingOutcome.CANNOT_TELL), (12, FindingOutcome.REGRESSION)]
)
def test_accuracy_is_paired_image_by_image(wrong: int, outcome: FindingOutcome) -> None:
    pinned = baseline()
    answers = measured(seed=7).answers
    assert answers is not None
    now = flipped(answers, wrong)
    finding = told(alone(answers=now, score=made.score(now)), pinned=pinned)[Metric.TOP1]
    assert finding.outcome is outcome
    assert finding.change is not None and finding.change.value == pytest.approx(-100 * wrong / len(answers.labels))
    assert f"{wrong} lost, 0 gained" in finding.how


def test_accuracy_on_other_images_is_not_compared() -> None:
    answers = measured().answers
    assert answers is not None
    other = answers.model_copy(update={"samples": "f" * 64})
    finding = told(alone(answers=other))[Metric.TOP1]
    assert (
        finding.outcome is FindingOutcome.CANNOT_TELL
        and finding.change is None
        and "baseline update" in finding.because[0]
    )


@pytest.mark.parametrize(
    ("size", "outcome"),
    [(1_020_000, FindingOutcome.REGRESSION), (1_005_000, FindingOutcome.SAME), (900_000, FindingOutcome.IMPROVEMENT)],
)
def test_a_size_is_exact(size: int, outcome: FindingOutcome) -> None:
    finding = told(alone(build=build(size)))[Metric.SIZE]
    assert finding.outcome is outcome and finding.change is not None
    assert finding.change.low == finding.change.high == pytest.approx(size / 1e4 - 100)


def test_compile_time_is_judged_when_it_was_compiled_again_and_only_then() -> None:
    times = [measured(seed=i, hours=i, build=build(seconds=10 + i / 10, compiled=i)) for i in range(8)]
    pinned = baseline_of("vit@rdk-x5", times[::-1], "2026-01-02T00:00:00+00:00", "w")
    assert pinned.compile_seconds == tuple(10 + i / 10 for i in range(8))
    assert Metric.COMPILE_TIME not in told(alone(build=times[3].build), pinned=pinned)
    slow = told(alone(build=build(seconds=40.0, compiled=77)), pinned=pinned)[Metric.COMPILE_TIME]
    assert slow.outcome is FindingOutcome.REGRESSION and "8 compilations of the pinned release" in slow.how


def test_a_simulated_run_has_no_latency_and_no_memory() -> None:
    m = made.measurement(seed=1, build=build(), provenance="simulated")
    found = told(JobMeasurement(m, None))
    assert not {Metric.P50, Metric.P99, Metric.MEMORY} & set(found) and Metric.TOP1 in found


# --- the file


def test_a_baseline_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    pinned = baseline()
    path = write_baseline(tmp_path, pinned)
    assert path == baseline_file(tmp_path, "vit@rdk-x5") and read_baseline(tmp_path, "vit@rdk-x5") == pinned
    text = path.read_text()
    assert text.endswith("}\n") and max(map(len, text.splitlines())) < 2000, "a review reads it line by line"
    write_baseline(tmp_path, pinned)
    assert path.read_text() == text


@given(right=st.lists(st.booleans(), min_size=1, max_size=70))
def test_which_images_are_right_survives_the_file(right: list[bool]) -> None:
    answers = Answers(samples="s", labels=(0,) * len(right), top=tuple((0 if ok else 1,) for ok in right))
    pinned = baseline_of("j", [measured(answers=answers, score=made.score(answers))], "2026", "w")
    assert pinned.accuracy is not None and pinned.accuracy.answers == tuple(right)


def test_a_baseline_keeps_twenty_sessions_of_each_board_and_no_invalid_one() -> None:
    many = [measured(seed=i, hours=i, board_id=f"b{i % 2}") for i in range(50)][::-1]
    invalid = measured(seed=99, hours=99, bad={0: Caveat.THROTTLED})
    pinned = baseline_of("j", [invalid, *many], "2026", "w")
    assert set(pinned.boards) == {"b0", "b1"}
    for board in pinned.boards.values():
        dates = [one.made for one in board.sessions]
        assert len(dates) == 20 and dates == sorted(dates)
    assert pinned.boards["b1"].sessions[-1].made == many[0].made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("{}", "job"),
        ('{"job": "other"}', "release"),
    ],
)
def test_a_file_that_is_no_baseline_is_named(tmp_path: Path, text: str, said: str) -> None:
    baseline_file(tmp_path, "j").write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        read_baseline(tmp_path, "j")
    assert "j.json" in str(refused.value) and refused.value.hint is not None and "git" in refused.value.hint


def test_a_baseline_of_another_job_and_answers_that_are_none_are_refused(tmp_path: Path) -> None:
    write_baseline(tmp_path, baseline())
    baseline_file(tmp_path, "vit@rdk-x5").rename(baseline_file(tmp_path, "j"))
    with pytest.raises(UsageError, match="is the baseline of vit@rdk-x5"):
        read_baseline(tmp_path, "j")
    pinned = baseline()
    assert pinned.accuracy is not None
    for wrong in ("!", "eJw=", ""):
        broken = pinned.model_copy(update={"accuracy": pinned.accuracy.model_copy(update={"right": wrong})})
        with pytest.raises(UsageError, match="answers"):
            told(alone(), pinned=broken)
    assert read_baseline(tmp_path, "nothing") is None
