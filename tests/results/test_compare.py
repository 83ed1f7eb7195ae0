"""compare: three verdicts, pairs, what is never compared, and how often it errs on a thing and itself."""

from __future__ import annotations

import random

import pytest

from bpudeploy import Measurement
from bpudeploy.errors import UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.results.compare import Design, compare
from bpudeploy.results.latency import latency_of, mean_of
from bpudeploy.results.measurement import Answers, Caveat, Round, Throughput
from bpudeploy.results.summary import Verdict
from tests.results.factories import measurement


def made(
    seed: int,
    *,
    factor: float = 1.0,
    release: str = "a",
    session: str = "s",
    shared: int = 0,
    count: int = 20,
    wrong: int = 10,
    **changes: object,
) -> Measurement:
    """Return a measurement whose rounds share a drift with those of the same ``shared`` seed."""
    rng, drift = random.Random(seed), random.Random(shared)
    timed = []
    for index in range(count):
        slow = 1 + 0.1 * drift.random()
        samples = tuple(factor * slow * (10 + rng.gauss(0, 0.1)) for _ in range(30))
        timed.append(Round(index=index, place=index, started_s=index, load_seconds=0.1, frames=30, samples_ms=samples))
    fps = tuple(1000 / (factor * (5 + rng.gauss(0, 0.05))) for _ in range(count))
    answers = Answers(samples="d" * 64, labels=(0,) * 200, top=tuple((1 if i < wrong else 0,) for i in range(200)))
    base = measurement()
    return base.model_copy(
        update={
            "subject": base.subject.model_copy(update={"release": release * 64}),
            "session": session,
            "rounds": tuple(timed),
            "latency": latency_of([one.samples_ms for one in timed]),
            "throughput": (Throughput(streams=4, fps=mean_of(fps), rounds=fps),),
            "answers": answers,
            "caveats": (),
            **changes,
        }
    )


def test_detects_three_percent_through_a_drift_of_ten_percent() -> None:
    found = compare([made(1)], [made(2, factor=1.03, release="b")])
    p50 = found.latency[0]
    assert found.design is Design.INTERLEAVED and found.pairs == 20
    assert found.verdict is p50.verdict is Verdict.WORSE
    assert p50.interval is not None and p50.interval.low < 3 < p50.interval.high and 2.5 < p50.percent < 3.5
    assert found.superiority is not None and found.superiority < 0.5
    assert found.throughput[0].verdict is Verdict.WORSE
    back = compare([made(2, factor=1.03, release="b")], [made(1)])
    assert back.verdict is Verdict.BETTER and back.latency[0].percent == pytest.approx(100 / 1.03 - 100, abs=0.3)


def test_there_is_no_verdict_below_the_threshold() -> None:
    assert compare([made(1)], [made(2, factor=1.03)], at_least=5).verdict is Verdict.CANNOT_TELL
    assert compare([made(1)], [made(2, factor=1.008)]).verdict is Verdict.CANNOT_TELL


def test_accuracy_is_paired_image_by_image() -> None:
    found = compare([made(1)], [made(2, wrong=25, release="b")])
    assert found.accuracy is not None and found.accuracy.points.value == 7.5
    assert found.verdict is Verdict.WORSE and found.latency[0].verdict is Verdict.CANNOT_TELL
    other = made(2).answers
    assert other is not None
    elsewhere = made(2, answers=other.model_copy(update={"samples": "e" * 64}))
    assert compare([made(1)], [elsewhere]).accuracy is None


@pytest.mark.parametrize("caveat", [Caveat.THROTTLED, Caveat.HOT, Caveat.REBOOTED])
def test_an_invalid_session_gives_the_reason_and_no_verdict(caveat: Caveat) -> None:
    found = compare([made(1)], [made(2, factor=1.5, caveats=(caveat,))])
    assert found.verdict is Verdict.CANNOT_TELL and any("B: " in why and caveat.meaning in why for why in found.because)


def test_a_noisy_session_still_gives_a_verdict() -> None:
    assert compare([made(1)], [made(2, factor=1.1, caveats=(Caveat.NOISY,))]).verdict is Verdict.WORSE


def test_too_few_pairs_give_no_verdict() -> None:
    found = compare([made(1, count=5)], [made(2, count=5, factor=2)])
    assert found.verdict is Verdict.CANNOT_TELL and "5 pairs of rounds" in found.because[0]
    one = compare([made(1, count=2)], [made(2, count=2, rounds=made(2, count=2).rounds[:1])])
    assert one.pairs == 1 and one.latency[0].interval is None


def test_separate_sessions_are_the_sample() -> None:
    a = [made(i, session=f"a{i}", shared=i) for i in range(4)]
    b = [made(i, session=f"b{i}", shared=i, factor=1.3, release="b") for i in range(10, 14)]
    found = compare(a, b)
    assert found.design is Design.APART and found.pairs == 4 and found.verdict is Verdict.WORSE
    few = compare(a[:2], b[:2])
    assert few.verdict is Verdict.CANNOT_TELL and any("3 sessions of each" in why for why in few.because)
    single = compare(a[:1], b[:1])
    assert single.latency[0].interval is None and single.verdict is Verdict.CANNOT_TELL


def test_an_invalid_separate_session_gives_no_verdict() -> None:
    a = [made(i, session=f"a{i}", shared=i) for i in range(3)]
    b = [made(i, session=f"b{i}", factor=1.5, caveats=(Caveat.HOT,)) for i in range(3)]
    assert compare(a, b).verdict is Verdict.CANNOT_TELL


@pytest.mark.parametrize("other", [Provenance.SIMULATED, Provenance.PREDICTED])
def test_provenances_are_never_mixed(other: Provenance) -> None:
    with pytest.raises(UsageError, match="never compared"):
        compare([made(1)], [made(2, provenance=other)])
    with pytest.raises(UsageError, match="never compared"):
        compare([made(1), made(3, provenance=other)], [made(2)])


@pytest.mark.parametrize("field", ["board_id", "device"])
def test_boards_are_never_mixed(field: str) -> None:
    with pytest.raises(UsageError, match="different boards"):
        compare([made(1)], [made(2).model_copy(update={field: "another"})])


def test_predictions_have_nothing_to_compare() -> None:
    nothing = {"provenance": Provenance.PREDICTED, "rounds": (), "latency": None, "throughput": (), "answers": None}
    found = compare([made(1).model_copy(update=nothing)], [made(2).model_copy(update=nothing)])
    assert found.latency == () and found.verdict is Verdict.CANNOT_TELL


def test_false_verdicts_of_a_release_against_itself_are_rare() -> None:
    """Nominal 5 % without the threshold of 1 %; on a real machine: python -m benchmarks.false_verdicts."""
    runs = 300
    runs_compared = [compare([made(2 * i, shared=i)], [made(2 * i + 1, shared=i)], at_least=0) for i in range(runs)]
    assert 0.01 < sum(c.latency[0].verdict is not Verdict.CANNOT_TELL for c in runs_compared) / runs < 0.09
