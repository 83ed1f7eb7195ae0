"""Accuracies with their intervals and tests, and the report of a run."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy import Summary
from bpudeploy.cli.main import main
from bpudeploy.provenance import Provenance
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.latency import frames_for, latency_of
from bpudeploy.results.measurement import Caveat
from bpudeploy.results.report import write_report
from bpudeploy.results.statistics import paired_drop, wilson
from bpudeploy.results.summary import AccuracyDrop, Verdict
from tests.pages import check_in_browser, words_of
from tests.results.factories import estimate, layers, measurement, on_cpu, quantization, summary
from tests.results.factories import rounds as made_rounds


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),  # R: binom::binom.confint(method = "wilson")
    [(0, 10, 0.0, 27.753), (5, 10, 23.659, 76.341), (81, 263, 25.530, 36.618), (10, 10, 72.247, 100.0)],
)
def test_wilson_against_published_values(correct: int, images: int, low: float, high: float) -> None:
    found = wilson(correct, images)
    assert found.low == pytest.approx(low, abs=0.01) and found.high == pytest.approx(high, abs=0.01)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_its_value_within_0_to_100(pair: tuple[int, int]) -> None:
    found = wilson(*pair)
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 100


@pytest.mark.parametrize(("correct", "images"), [(1, 0), (-1, 5), (6, 5)])
def test_an_invalid_proportion_is_refused(correct: int, images: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(correct, images)


def outcomes(both: int, before: int, after: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = [(True, True)] * both + [(True, False)] * before + [(False, True)] * after + [(False, False)] * neither
    return [b for b, _ in pairs], [a for _, a in pairs]


def test_a_drop_is_paired() -> None:
    found = paired_drop(*outcomes(150, 18, 10, 22))
    assert found.points.value == pytest.approx(4.0)
    assert found.points.low < 4.0 < found.points.high
    assert found.p_value == pytest.approx(0.18493, abs=1e-4)  # R: binom.test(10, 28)
    assert paired_drop(*outcomes(10, 0, 0, 5)).p_value == 1.0
    assert paired_drop(*outcomes(10, 5, 0, 5)).p_value == pytest.approx(2 / 32)


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(any))
def test_a_drop_in_the_other_direction_is_its_negative(counts: tuple[int, int, int, int]) -> None:
    before, after = outcomes(*counts)
    one, other = paired_drop(before, after), paired_drop(after, before)
    assert one.points.value == -other.points.value and one.p_value == other.p_value
    assert one.points.low == pytest.approx(-other.points.high)
    assert (one.lost, one.gained, one.detectable) == (other.gained, other.lost, other.detectable)
    turned = {Verdict.WORSE: Verdict.BETTER, Verdict.BETTER: Verdict.WORSE}
    assert one.verdict is turned.get(other.verdict, Verdict.CANNOT_TELL)


@pytest.mark.parametrize(
    (
        "before",
        "after",
        "verdict",
        "detectable",
    ),  # p: 0.031 for (6, 0), 0.049 for (13, 4), 0.036 for (20, 8), 0.035 for (61, 39)
    [
        (0, 0, Verdict.CANNOT_TELL, 6),
        (5, 0, Verdict.CANNOT_TELL, 6),
        (6, 0, Verdict.WORSE, 6),
        (0, 6, Verdict.BETTER, 6),
        (13, 4, Verdict.WORSE, 9),
        (18, 10, Verdict.CANNOT_TELL, 12),
        (20, 8, Verdict.WORSE, 12),
        (21, 12, Verdict.CANNOT_TELL, 13),
        (61, 39, Verdict.WORSE, 22),
        (60, 40, Verdict.CANNOT_TELL, 22),
    ],
)
def test_a_verdict_is_mcnemars_with_the_minimum_detectable_difference(
    before: int, after: int, verdict: Verdict, detectable: int
) -> None:
    found = paired_drop(*outcomes(70, before, after, 130 - before - after))
    assert found.verdict is verdict and (found.lost, found.gained) == (before, after)
    assert found.detectable == pytest.approx(100 * detectable / 200)


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(any))
def test_a_verdict_agrees_with_its_interval_and_the_detectable_difference(counts: tuple[int, int, int, int]) -> None:
    found = paired_drop(*outcomes(*counts))
    if found.verdict is Verdict.CANNOT_TELL:
        assert abs(found.points.value) < found.detectable
    else:
        assert found.points.low > 0 if found.verdict is Verdict.WORSE else found.points.high < 0


def test_the_bootstrap_is_seeded_and_equals_resampling_images() -> None:
    before, after = outcomes(150, 18, 10, 22)
    found = paired_drop(before, after).bootstrap
    assert found == paired_drop(before, after).bootstrap
    rng = random.Random(3)  # the same, image by image
    pairs = list(zip(before, after, strict=True))
    drawn = sorted(sum(b - a for b, a in rng.choices(pairs, k=200)) / 2 for _ in range(4000))
    assert found.value == 4.0
    assert found.low == pytest.approx(drawn[100], abs=0.51) and found.high == pytest.approx(drawn[3899], abs=0.51)


@pytest.mark.parametrize(("n", "lost", "gained"), [(200, 0.05, 0.03), (200, 0.12, 0.06), (500, 0.04, 0.04)])
def test_coverage_of_both_intervals_of_a_drop(n: int, lost: float, gained: float) -> None:
    rng, drops = random.Random(7), dict[tuple[int, int], AccuracyDrop]()
    covered, rounds, true = [0, 0], 1200, 100 * (lost - gained)
    for _ in range(rounds):
        drawn = rng.choices("lg=", [lost, gained, 1 - lost - gained], k=n)
        b, c = drawn.count("l"), drawn.count("g")
        if (b, c) not in drops:
            drops[b, c] = paired_drop(*outcomes(n - b - c, b, c, 0))
        for i, interval in enumerate((drops[b, c].points, drops[b, c].bootstrap)):
            covered[i] += interval.low - 1e-9 <= true <= interval.high + 1e-9
    assert all(0.94 <= h / rounds <= 0.975 for h in covered), covered


def text_of(given: Summary, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a terminal shows of a run."""
    (tmp_path / "summary.json").write_text(given.model_dump_json())
    capsys.readouterr()
    main(["report", str(tmp_path)])
    return capsys.readouterr().out


def page_of(given: Summary, tmp_path: Path) -> str:
    write_report(given, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_the_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    page = page_of(summary(), tmp_path)
    assert page.count("<svg") >= 4
    assert not re.search(r"<(script|link|img|iframe)|@import|\bsrc=", page)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    assert "a" * 64 in page and "b" * 64 in page and "f" * 64 in page
    assert "FAILED" in page and "measured" in page and "not readable" in page


def test_the_report_escapes_names(tmp_path: Path) -> None:
    assert "<script" not in page_of(summary("<script>alert(1)</script>"), tmp_path)


def shown(given: Summary, tmp_path: Path) -> str:
    return words_of(page_of(given, tmp_path), drawings=False)


def test_caveats_are_explained_at_the_top(tmp_path: Path) -> None:
    bad = measurement(bad={2: Caveat.THROTTLED, 3: Caveat.THROTTLED, 9: Caveat.NOISY})
    given = summary(measurement=bad.model_copy(update={"caveats": (*bad.caveats, Caveat.REBOOTED)}))
    text = shown(given, tmp_path)
    assert text.index("Caveats of the latency on this board:") < text.index("top-1 on the board")
    assert f"throttled {Caveat.THROTTLED.meaning} (2 of 20 rounds)" in text
    assert f"noisy {Caveat.NOISY.meaning} (1 of 20 rounds)" in text
    assert f"rebooted {Caveat.REBOOTED.meaning}" in text and f"{Caveat.REBOOTED.meaning} (" not in text
    assert "Red: 3 of 20 rounds with a caveat (noisy, throttled)" in text
    assert "Caveats" not in shown(summary(), tmp_path)


def test_the_report_says_how_it_was_measured(tmp_path: Path) -> None:
    text = shown(summary(measurement=measurement()), tmp_path)
    assert "20 rounds, each after loading the model; 10 warm-up frames per round, not counted; 600 frames timed" in text
    assert "rounds start below 80 °C, or are marked hot after 60 s" in text
    assert re.search(r"4 frames in flight \d+\.\d \d+\.\d to \d+\.\d", text)
    assert re.search(r"model load 2\d\d 2\d\d to 2\d\d", text)
    assert "same top-1 class as the host's integer reference 98.0 % of 200 images" in text
    assert "98.00 89.5 to 99.6" in text, "top-5 with its interval"


def test_the_report_shows_the_self_check(tmp_path: Path) -> None:
    text = shown(summary(), tmp_path)
    assert "passed : 8 of 8 golden images with the host's top-1 class; RMS deviation of the logits 0.021 of" in text
    text = shown(summary(self_check=SelfCheck(images=8, same=1, deviation=1.4)), tmp_path)
    assert text.index("Self-check failed : the board's outputs differ") < text.index("top-1 on the board")
    assert "FAILED : 1 of 8 golden images" in text


def test_a_percentile_of_too_few_frames_has_a_note(tmp_path: Path) -> None:
    few = made_rounds(count=3, frames=4)
    sparse = measurement(rounds=few, latency=latency_of([one.samples_ms for one in few]))
    text = shown(summary(measurement=sparse), tmp_path)
    assert re.search(r"p99 [\d.]+ at least [\d.]+ no upper bound: 12 frames are too few", text)
    assert f"{frames_for(0.99)} independent ones" in text
    tool = tuple(one.model_copy(update={"per_sample": 50, "frames": 50 * one.frames}) for one in few)
    means = measurement(rounds=tool, latency=latency_of([one.samples_ms for one in tool], per_sample=50))
    text = shown(summary(measurement=means), tmp_path)
    assert "p99 not available: the board's tool reports only means" in text
    assert "p90 not available, p99 not available" in text


def test_missing_data_is_reported(tmp_path: Path) -> None:
    text = shown(summary(), tmp_path)
    assert "No sensor was read during the measurement." in text
    assert "The runtime on this board does not report the time of layers." in text
    silent = measurement().conditions[0].model_copy(update={"temperatures_c": {}, "clocks_hz": {}})
    assert "This board has no sensor" in shown(summary(measurement=measurement(conditions=(silent,))), tmp_path)
    cold = [one.model_copy(update={"temperatures_c": {}}) for one in measurement().conditions]
    assert "This board has no temperature sensor." in shown(summary(measurement=measurement(conditions=cold)), tmp_path)
    names = ("latency", "facts", "score", "load_ms", "method", "peak_memory_mb")
    bare = on_cpu(rounds=(), throughput=(), **dict.fromkeys(names))
    text = shown(summary(measurement=bare), tmp_path)
    assert text.count("No latency was measured.") == 3 and "nothing was timed" in text
    assert "runtime onnxruntime 1.23 not available peak memory" in text


def test_names_in_plots_are_neither_formulas_nor_tags(tmp_path: Path) -> None:
    odd = (layers()[0].model_copy(update={"name": "$\\frac{<b>", "ms": 99.0}), *layers())
    hot = measurement().conditions[0].model_copy(update={"temperatures_c": {"$x_{<i>&": 50.0, "_quiet": 40.0}})
    page = page_of(summary(measurement=measurement(layers=odd, conditions=(hot,))), tmp_path)
    assert "$\\frac{&lt;b&gt;" in page and "$x_{&lt;i&gt;&amp;" in page and "<b>" in page and "<i>" not in page
    assert "> _quiet<" in page


def test_the_time_of_a_simulator_is_not_shown_as_a_boards(tmp_path: Path) -> None:
    timed = measurement(provenance=Provenance.SIMULATED, device="the simulator of bayes-e")
    given = summary(measurement=timed, predicted=estimate())
    text = shown(given, tmp_path)
    assert "latency on RDK X5, predicted 4.2 ms interval 3 to 6; nothing measured" in text
    assert "The simulator's own time, on this machine simulated" in text and "Latency on the board" not in text
    assert text.count("of the simulator, not of a board") == 4 and "top-1, simulated" in text
    assert "98.0 % of 200 images, 95 % interval 95.0 to 99.2 simulated" in text


def test_the_same_run_makes_the_same_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(summary(measurement=measurement()), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_many_frames_do_not_make_a_large_page(tmp_path: Path) -> None:
    many = made_rounds(frames=5000)
    given = measurement(rounds=many, latency=latency_of([one.samples_ms for one in many]))
    text = shown(summary(measurement=given), tmp_path)
    assert "only the fastest and the slowest are drawn" in text and "100000 frames timed" in text
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_a_loss_is_shown_with_its_significance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = "not significant, minimum detectable difference 12.0 points"
    words = {
        4: ("n.s. at 50 images, MDD 12.0", f"p = 0.12; {unknown}", ">n.s., detectable: 12.0<"),
        9: ("p = 0.0039, worse", "p = 0.0039; worse than float", ">worse<"),
    }
    for lost, (terminal, card, row) in words.items():
        out = text_of(summary(lost=lost), tmp_path, capsys)
        assert out.count(terminal) == 2 and "MDD: minimum detectable difference" in out
        page = page_of(summary(lost=lost), tmp_path)
        assert page.count(card) == 1 and page.count(row) == 2 and f'<td class="n">{lost}, 0</td>' in page


@pytest.mark.parametrize(
    ("lost", "text", "change"), [(0, "80.0 % (float 80.0, +0.0)", "+0.0"), (4, "72.0 % (float 80.0, -8.0)", "-8.0")]
)
def test_a_change_of_accuracy_is_signed_new_minus_float(lost: int, text: str, change: str, tmp_path: Path) -> None:
    page = shown(summary(lost=lost), tmp_path)
    assert f"top-1 on the board {text} 95 % interval" in page
    assert f"top-1 minus float {change} points" in page
    assert "max_drop on the board at most 1 points below float -2.00 points FAILED" in page
    assert "1 +4.00" not in page and "0 -6.00 1.000" in page and "3 +0.00 1.300" in page, "trials of repair"
    better = paired_drop(*outcomes(150, 10, 18, 22))
    assert better.points.value == -4.0 and better.change.value == 4.0
    assert (better.change.low, better.change.high) == (-better.points.high, -better.points.low)
    assert better.bootstrap_change.low <= 4.0 <= better.bootstrap_change.high


def test_warnings_come_first_in_the_terminal_and_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = text_of(summary(), tmp_path, capsys)
    assert out.index("warning: <photo>.png: one colour") < out.index("accuracy")
    page = page_of(summary(), tmp_path)
    assert page.index("<li>&lt;photo&gt;.png: one colour</li>") < page.index("top-1 on the board")
    assert "<li>" not in page_of(summary().model_copy(update={"warnings": ()}), tmp_path)


def test_the_report_shows_another_boards_placement_as_a_what_if(tmp_path: Path) -> None:
    page = page_of(summary(), tmp_path)
    assert "What if: the same graph on rdk-x5" in page and "local has no BPU" in page
    assert page.count("<svg") == 7 and "the checker leaves Neg 4 on the CPU" in page
    own = summary().model_copy(update={"target": "rdk-x5"})
    page = page_of(own, tmp_path)
    assert "What if" not in page and "before any compiler" in page
    assert page_of(summary().model_copy(update={"placement": None}), tmp_path).count("<svg") == 6


def test_layers_and_repair_are_in_the_report_and_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_of(summary(), tmp_path)
    rows = re.findall(r"<td>&lt;layer&gt; (\d+)</td>", page)
    assert [int(r) for r in rows] == list(range(30)), "the worst first"
    assert page.index("10 more</summary>") > page.index("&lt;layer&gt; 19<")
    assert page.count("predicted slowdown") >= 5 and "predicted slowdown, not measured" in page
    assert (
        "4 networks were evaluated on the same 50 images" in page and "Only the slowdown by int16 is predicted" in page
    )
    out = text_of(summary(), tmp_path, capsys)
    assert out.count("<layer>") == 5 and "worst of 30 layers compared with float on 8 images" in out
    assert "check max_drop 1 points, on this machine: +0.00 points, passed with 3 more taps in int16, predicted" in out
    assert "0: -6.00, 1: -4.00, 2: -2.00, 3: +0.00 (chosen on these images" in out


def test_the_report_shows_where_onnxruntime_and_integers_differ(tmp_path: Path) -> None:
    page = page_of(summary(), tmp_path)
    assert "more than one quantization step off on <b>2</b> of the 4 tensors" in page and "&lt;wide product&gt;" in page
    assert re.findall(r"<td>&lt;tap&gt; (\d)</td>", page) == ["3", "2"], "the worst first"
    given = quantization()
    near = {name: tap for name, tap in given.integers.taps.items() if tap.forced.worst <= 1}
    fine = given.model_copy(update={"integers": given.integers.model_copy(update={"taps": near, "sums": {}})})
    page = page_of(summary().model_copy(update={"quantization": fine}), tmp_path)
    assert "within one quantization step on each of the 2 tensors" in page and "no int32 accumulator overflows" in page


def test_without_repair_nothing_is_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = summary().model_copy(update={"quantization": quantization(repaired=False)})
    page = page_of(plain, tmp_path)
    assert "predicted slowdown" not in page and "Nothing on this page is predicted" in page and page.count("<svg") == 6
    assert "promoted" not in text_of(plain, tmp_path, capsys)
    assert "<h2>Quantization</h2>" not in page_of(summary().model_copy(update={"quantization": None}), tmp_path)


def test_a_summary_survives_json() -> None:
    assert Summary.model_validate_json(summary().model_dump_json()) == summary()


def test_the_report_draws_in_a_browser(tmp_path: Path) -> None:
    write_report(summary(), tmp_path / "report.html")
    check_in_browser(tmp_path / "report.html", 1200, 1600)
