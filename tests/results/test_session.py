"""A session as entries: the next round and the measurements follow from them, wherever it was interrupted."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import BoardFacts, Caveat, Clock, Conditions, Round, Subject
from bpudeploy.results.session import (
    ENTRY,
    AgentStarted,
    Answered,
    Contender,
    Entry,
    Ready,
    RoundTimed,
    Setting,
    answered,
    caveats_of,
    measurements_of,
    next_round,
)
from bpudeploy.spec.recipe import BenchmarkSpec

FACTS = BoardFacts(
    hostname="h", machine="aarch64", cpu=None, cores=4, memory_mb=None, os="Linux", python="3.10", board_id="soc"
)
METHOD = BenchmarkSpec(rounds=4, min_frames=12, min_seconds=0, max_seconds=100, streams=(2,))


def setting(contenders: int = 1, method: BenchmarkSpec = METHOD) -> Setting:
    subjects = [
        Subject(recipe="r", target="t", march="m", backend="b", release=f"{i}" * 64, binary="c" * 64)
        for i in range(contenders)
    ]
    return Setting(
        session="s",
        made="2026-11-28T00:00:00+00:00",
        contenders=tuple(Contender(subject=one, expected=(0, 1, 0)) for one in subjects),
        samples="d" * 64,
        labels=(0, 1, 1),
        method=method,
        board="local",
        device="CPU",
        provenance=Provenance.MEASURED,
        versions={},
    )


def timed(contender: int, index: int, ms: Sequence[float] = (10.0, 10.1, 10.2), seconds: float = 1.0) -> RoundTimed:
    one = Round(index=index, place=index, started_s=0, load_seconds=0.1 + index, frames=len(ms), samples_ms=tuple(ms))
    return RoundTimed(contender=contender, round=one, seconds=seconds, fps={2: 100.0 + index})


def began(boot: str = "b") -> AgentStarted:
    return AgentStarted(boot=boot, at=0, t=0, facts=FACTS)


def play(chosen: Setting, seconds: float = 1.0) -> list[tuple[int, int]]:
    entries: list[Entry] = []
    order = []
    while (following := next_round(entries, chosen)) is not None:
        order.append(following)
        entries.append(timed(*following, seconds=seconds))
    return order


def test_two_contenders_are_interleaved_in_alternating_order() -> None:
    assert play(setting(2)) == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2), (1, 3), (0, 3)]


def test_rounds_continue_until_the_median_is_precise_or_time_is_out() -> None:
    sharp = METHOD.model_copy(update={"precision": 0.001})
    assert len(play(setting(1, sharp), seconds=10)) == 10, "100 seconds"
    assert len(play(setting(1, METHOD), seconds=60)) == 2, "time is out, but a spread needs two"
    assert len(play(setting(1, METHOD.model_copy(update={"min_frames": 30})))) == 10
    assert len(play(setting(2, sharp), seconds=10)) == 20, "neither has more than the other"


@given(st.integers(1, 3), st.integers(0, 30))
def test_the_next_round_does_not_depend_on_interruptions(contenders: int, cut: int) -> None:
    """Entries alone are enough to resume."""
    chosen = setting(contenders)
    entries: list[Entry] = []
    while (following := next_round(entries, chosen)) is not None:
        entries.append(timed(*following))
        if len(entries) == cut:
            entries = [ENTRY.validate_json(one.model_dump_json()) for one in entries]
            entries.append(began())
    rounds = [(one.contender, one.round.index) for one in entries if isinstance(one, RoundTimed)]
    assert rounds == play(chosen)


def reading(**changes: object) -> Conditions:
    base = Conditions(
        at_s=0,
        during="round 0",
        temperatures_c={"cpu": 50.0},
        clocks_hz={"cpu policy0": Clock(cur=1.5e9, max=1.5e9)},
        bpu_busy={},
        governors={"cpu policy0": "performance"},
        load_1min=0.1,
        others_cores=0.0,
    )
    return base.model_copy(update=changes)


def test_caveats_follow_from_the_sensors() -> None:
    slow = {"cpu policy0": Clock(cur=1.2e9, max=1.5e9)}
    loose = {"cpu policy0": "schedutil"}
    assert caveats_of([reading()]) == ()
    assert caveats_of([reading(), reading(clocks_hz=slow)]) == (Caveat.THROTTLED,), "one moment is enough"
    assert caveats_of([reading(clocks_hz=slow, governors=loose)]) == (Caveat.UNHELD,), "that clock may move"
    assert caveats_of([reading(others_cores=None), reading(others_cores=0.9)]) == (Caveat.NOISY,)
    assert caveats_of([reading(others_cores=0.0)] * 9 + [reading(others_cores=0.5)]) == (), "on average"
    nothing = reading(temperatures_c={}, clocks_hz={}, governors={}, others_cores=None)
    assert caveats_of([nothing]) == caveats_of([]) == ()


def whole(entries: Sequence[Entry], chosen: Setting) -> list[Entry]:
    ready = [Ready(contender=i, batch=1, runtime="ort 1", driver="ort") for i in range(len(chosen.contenders))]
    answers = [
        Answered(contender=i, first=first, top=top)
        for i in range(len(chosen.contenders))
        for first, top in ((0, ((0,), (1,))), (2, ((0,),)))
    ]
    return [began(), *ready, *entries, *answers]


def test_a_measurement_follows_from_the_entries() -> None:
    chosen = setting()
    entries = whole([timed(0, i, [10.0 + random.Random(i).random() for _ in range(3)]) for i in range(4)], chosen)
    (found,) = measurements_of(chosen, entries, "soc")
    assert found.latency is not None and found.latency.frames == 12 and len(found.rounds) == 4
    assert found.load_ms is not None and found.load_ms.value == pytest.approx(1600)
    assert found.throughput[0].streams == 2 and found.throughput[0].fps.value == pytest.approx(101.5)
    assert found.score is not None and found.score.top1.value == pytest.approx(200 / 3)
    assert found.score.as_host is not None and found.score.as_host.value == 100 and found.score.top5 is None
    assert found.board_id == "soc" and found.peak_memory_mb is None


@pytest.mark.parametrize(
    ("boots", "caveat"), [("bb", Caveat.INTERRUPTED), ("bc", Caveat.REBOOTED), ("b", None)], ids=str
)
def test_interruptions_and_reboots_are_caveats(boots: str, caveat: Caveat | None) -> None:
    chosen = setting()
    entries = whole([timed(0, i) for i in range(4)], chosen)[1:]
    (found,) = measurements_of(chosen, [*map(began, boots), *entries], "soc")
    assert set(found.caveats) & {Caveat.INTERRUPTED, Caveat.REBOOTED} == ({caveat} if caveat else set())


def test_too_few_rounds_are_marked_short() -> None:
    chosen = setting()
    (found,) = measurements_of(chosen, whole([timed(0, i, seconds=60) for i in range(2)], chosen), "soc")
    assert found.caveats == (Caveat.SHORT,)


def test_a_measurement_needs_an_answer_for_every_image() -> None:
    chosen = setting()
    entries = whole([timed(0, i) for i in range(4)], chosen)[:-1]
    assert answered(entries, 0) == 2
    with pytest.raises(ValueError, match="2 of 3 images"):
        measurements_of(chosen, entries, "soc")
