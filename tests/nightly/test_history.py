"""A job's history: the first bad night, what changed between, and the commands that show it again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bpudeploy.nightly.change_points import MIN_NIGHTS
from bpudeploy.nightly.differences import describe_differences, reproduce_commands
from bpudeploy.nightly.evaluate import first_bad_night
from bpudeploy.nightly.history import history_finding, metric_histories, suite_measurements
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, MetricFinding, Night, Reference
from bpudeploy.results.measurement import BuildFacts, Caveat, Interval, Measurement, StepFacts
from bpudeploy.spec.suite import NightlyChecks
from tests.results import factories as made

BEGAN = datetime(2026, 1, 1, 2, tzinfo=UTC)
CHECKS = NightlyChecks(p99=None, top1=None, memory=None, size=None, compile_time=None)


def step(*digests: str, **parts: Any) -> StepFacts:
    return StepFacts(parts=parts, digests=digests)


def build(
    commit: str = "c0ffee", size: int = 1, seconds: float = 1.0, compiled: int = 1, **steps: StepFacts
) -> BuildFacts:
    return BuildFacts(binary_bytes=size, compiled=compiled, compile_seconds=seconds, commit=commit, steps=steps)


PLAIN = made.measurement()
assert PLAIN.latency is not None
LATENCY = PLAIN.latency


def night(number: int, p50: float, *, suite: str = "lab", release: str = "a", **changes: Any) -> Measurement:
    """Return what a night measured; only its p50 and what explains it are told."""
    spread = Interval(value=p50, low=p50, high=p50)
    when = (BEGAN + timedelta(days=number)).isoformat()
    told = {
        "session": f"s{number}-{suite}",
        "made": when,
        "latency": LATENCY.model_copy(update={"p50_ms": spread}),
        "night": f"{suite}/{when[:10]}",
        "subject": PLAIN.subject.model_copy(update={"release": release * 64}),
    }
    return PLAIN.model_copy(update=told | changes)


def series(*levels: tuple[int, float], seed: int = 0, **changes: Any) -> list[Measurement]:
    """Return nights on levels of so many nights each, with 1 % of noise."""
    noise = random.Random(seed)
    found: list[Measurement] = []
    for which, (count, level) in enumerate(levels):
        for _ in range(count):
            value = level * (1 + noise.gauss(0, 0.01))
            found.append(night(len(found), value, release="abcdef"[which], build=build(f"commit{which}"), **changes))
    return found


def verdict(nights: list[Measurement], pinned: str | None = None) -> MetricFinding:
    (history,) = metric_histories("vit@rdk-x5", nights, CHECKS)
    return history_finding(history, pinned, "vit.yaml")


def test_a_level_that_stays_is_the_same_and_a_few_nights_tell_nothing() -> None:
    assert verdict(series((20, 5.0))).outcome is FindingOutcome.SAME
    few = verdict(series((MIN_NIGHTS - 1, 5.0)))
    assert few.outcome is FindingOutcome.CANNOT_TELL and f"{MIN_NIGHTS} are required" in few.because[0]


def test_a_step_names_its_first_bad_night_what_changed_and_how_to_see_it() -> None:
    nights = series((20, 5.0), (6, 5.6))
    found = verdict(nights)
    assert found.outcome is FindingOutcome.REGRESSION
    assert (found.last_good, found.since) == (nights[19].made, nights[20].made)
    assert found.change is not None and found.change.low < 12 < found.change.high
    assert found.before == pytest.approx(5.0, rel=0.02)
    assert "recipe commit: commit0 -> commit1" in found.changed
    assert found.reproduce[0] == f"bpudeploy bench {'b' * 12} --against {'a' * 12} --board root@192.168.1.10"
    assert found.reproduce[1] == "bpudeploy bisect vit.yaml --good commit0 --bad commit1 --board root@192.168.1.10"


def test_a_change_that_was_pinned_is_accepted() -> None:
    nights = series((20, 5.0), (6, 5.6))
    assert verdict(nights, pinned=nights[20].made).outcome is FindingOutcome.SAME
    assert verdict(nights, pinned=nights[19].made).outcome is FindingOutcome.REGRESSION


def test_what_recovered_and_what_got_better_is_no_regression() -> None:
    assert verdict(series((20, 5.0), (8, 5.6), (8, 5.0))).outcome is FindingOutcome.SAME
    assert verdict(series((20, 5.0), (8, 4.5))).outcome is FindingOutcome.SAME


def test_throttled_nights_are_drawn_and_not_judged() -> None:
    hot = series((20, 5.0)) + [night(20 + i, 7.0, caveats=(Caveat.THROTTLED,), build=build()) for i in range(6)]
    (history,) = metric_histories("j", hot, CHECKS)
    assert [point.invalid for point in history.series.points] == [False] * 20 + [True] * 6
    assert history_finding(history, None, "r.yaml").outcome is FindingOutcome.SAME


def test_only_what_the_suite_s_nights_judged_is_its_history_one_a_night() -> None:
    by_hand = night(3, 9.0, night=None)
    twice = [night(1, 5.0), night(1, 5.1, session="again", made=(BEGAN + timedelta(days=1, hours=1)).isoformat())]
    other = night(2, 5.0, suite="other")
    found = suite_measurements([by_hand, other, *reversed(twice), night(0, 5.0)], "lab")
    assert [(m.night, m.session) for m in found] == [("lab/2026-01-01", "s0-lab"), ("lab/2026-01-02", "again")]


def test_each_metric_has_its_own_history_and_a_binary_from_the_store_is_no_new_compile_time() -> None:
    nights = [night(i, 5.0, build=build(size=10**6, seconds=3.0 + i, compiled=i // 2)) for i in range(8)]
    found = {one.metric: one for one in metric_histories("j", nights, NightlyChecks())}
    assert set(found) == set(Metric)
    assert [point.value for point in found[Metric.COMPILE_TIME].series.points] == [3.0, 5.0, 7.0, 9.0]
    assert {point.board for point in found[Metric.SIZE].series.points} == {""}, "no board has a part in it"
    assert found[Metric.P50].series.points[0].temperature_c is not None
    assert found[Metric.TOP1].series.points[0].temperature_c is None


# --- what changed


OLD = made.measurement(build=build("aaaa", fetch=step("1", options={"count": 64}, tools={"torch": "2.12"})))


def after(facts: BuildFacts | None = None, **changes: Any) -> Measurement:
    release = PLAIN.subject.model_copy(update={"release": "9" * 64})
    return OLD.model_copy(update={"subject": release, "build": facts} | changes)


def steps(**found: StepFacts) -> Mapping[str, StepFacts]:
    return found


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            build("aaaa", fetch=step("2", options={"count": 32}, tools={"torch": "2.12"})),
            "fetch: options.count: 64 -> 32",
        ),
        (
            build("aaaa", fetch=step("2", options={"count": 64}, tools={"torch": "2.13"})),
            "fetch: tools.torch: 2.12 -> 2.13",
        ),
        (
            build("aaaa", fetch=step("2", options={"count": 64}, tools={"torch": "2.12"})),
            "fetch: same inputs, different output",
        ),
        (build("aaaa"), "fetch: no longer a step"),
        (build("bbbb", fetch=OLD.build.steps["fetch"]), "recipe commit: aaaa -> bbbb"),  # type: ignore[union-attr]
        (None, "the build of one of them is unknown"),
    ],
)
def test_a_build_says_what_is_different(facts: BuildFacts | None, said: str) -> None:
    found = describe_differences(OLD, after(facts))
    assert any(said in line for line in found), found


def test_what_only_follows_from_an_earlier_step_is_not_told_again() -> None:
    one = build(fetch=step("1", options={}), quantize=step("q", options={}, inputs={"0 fetch": "1"}))
    two = build(fetch=step("2", options={"x": 1}), quantize=step("r", options={}, inputs={"0 fetch": "2"}))
    old = OLD.model_copy(update={"build": one})
    assert describe_differences(old, after(two)) == ("fetch: options.x: none -> 1",)


def test_the_board_its_runtime_the_method_and_the_host_s_tools_are_told() -> None:
    other = OLD.model_copy(
        update={
            "board_id": "0x99",
            "runtime": "hobot_dnn 2.0",
            "versions": {"bpudeploy": "0.9.0", "onnx": "1.19"},
            "method": OLD.method.model_copy(update={"warmup": 3}) if OLD.method else None,
        }
    )
    found = "\n".join(describe_differences(OLD, other))
    for said in (
        "0x1234) -> ",
        "hobot_dnn 1.24.5 -> hobot_dnn 2.0",
        "bpudeploy on the host: 0.8.0 -> 0.9.0",
        "benchmark.warmup: 10 -> 3",
    ):
        assert said in found, found
    assert describe_differences(OLD, OLD) == ()


def test_a_long_list_is_cut_and_says_so() -> None:
    many = build("aaaa", fetch=step("2", options={f"o{i}": i for i in range(40)}, tools={"torch": "2.12"}))
    found = describe_differences(OLD, after(many))
    assert len(found) == 12 and found[-1] == "and 30 more"


def test_without_commits_the_releases_are_bisected_and_of_one_release_the_board_is_looked_at() -> None:
    assert reproduce_commands(OLD, after(None), "r.yaml")[1].startswith("bpudeploy bisect vit-tiny@rdk-x5 --good ")
    (only,) = reproduce_commands(OLD, OLD, "r.yaml")
    assert only.startswith("bpudeploy bench ")


# --- since when


def record(began: str, outcome: FindingOutcome | None, since: str | None = None) -> Night:
    """Return a night that said so of p50 against the baseline; None: it had none."""
    finding = MetricFinding(
        metric=Metric.P50,
        against=Reference.BASELINE,
        outcome=outcome or FindingOutcome.SAME,
        now=1.0,
        before=1.0,
        change=None,
        at_least=3.0,
        how="",
        since=since,
    )
    told = () if outcome is None else (finding,)
    job = JobResult(job="a@b", recipe="a", target="b", value=1, state=JobState.MEASURED, findings=told)
    return Night(suite="lab", file="s.yaml", began=began, jobs=(job,))


@pytest.mark.parametrize(
    ("nights", "since", "last_good"),
    [
        ([], None, None),
        ([record("n1", FindingOutcome.SAME)], None, "n1"),
        (
            [
                record("n3", FindingOutcome.REGRESSION),
                record("n2", FindingOutcome.REGRESSION),
                record("n1", FindingOutcome.SAME),
            ],
            "n2",
            "n1",
        ),
        ([record("n2", FindingOutcome.REGRESSION, "n2 at 3"), record("n1", None)], "n2 at 3", "n1"),
        (
            [
                record("n4", FindingOutcome.CANNOT_TELL),
                record("n3", FindingOutcome.REGRESSION),
                record("n2", FindingOutcome.CANNOT_TELL),
                record("n1", FindingOutcome.IMPROVEMENT),
            ],
            "n3",
            "n1",
        ),
        ([record("n2", FindingOutcome.SAME), record("n1", FindingOutcome.REGRESSION)], None, "n2"),
    ],
)
def test_the_first_bad_night_is_the_first_of_those_that_nothing_good_came_after(
    nights: list[Night], since: str | None, last_good: str | None
) -> None:
    assert first_bad_night(Metric.P50, nights, "a@b") == (since, last_good)
