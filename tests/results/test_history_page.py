"""The history page and its table: no mixed provenances, no silent omissions, nothing that executes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy import Measurement
from bpudeploy.provenance import Provenance
from bpudeploy.results.history_page import to_csv, write_history
from bpudeploy.results.history_plots import MAX_SHOWN, accuracy_against_latency, distributions, pareto
from bpudeploy.results.latency import latency_of
from bpudeploy.results.measurement import Caveat, Round
from tests.pages import check_in_browser, words_of
from tests.results.factories import answers, measurement, on_cpu, predicted, score, simulated, subject
from tests.results.factories import rounds as made_rounds

Points = list[tuple[float, float]]


def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(50, 62)) | st.tuples(st.floats(0.1, 99), st.floats(0, 100))))
def test_the_front_is_the_set_of_points_that_no_other_dominates(points: Points) -> None:
    front = pareto(points)
    assert set(front) <= set(points) and len(set(front)) == len(front)
    assert not any(beats(other, one) for one in front for other in points)
    assert all(any(beats(one, other) for one in front) for other in set(points) - set(front))
    assert front == sorted(front) and [p for _, p in front] == sorted(p for _, p in front)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_front_does_not_depend_on_the_order(points: Points) -> None:
    assert pareto(points) == pareto(points[::-1]) == pareto([*points, *points])


def page_of(found: Sequence[Measurement], tmp_path: Path) -> str:
    write_history(found, tmp_path / "results.html")
    return (tmp_path / "results.html").read_text()


def mixed(count: int = 8) -> list[Measurement]:
    """Return measurements of two boards, and simulated and predicted ones, oldest first."""
    found = []
    for i in range(count):
        release = subject(release=f"{i:02x}" * 32, recipe=("vit", "swin")[i % 2])
        if i % 4 == 0:
            cpu = subject(release=f"{i:02x}" * 32, target="local", march="cpu", backend="ort")
            found.append(on_cpu(seed=i, hours=i, p50=30, subject=cpu))
        elif i % 4 == 1:
            found += [simulated(seed=i, hours=i, subject=release), predicted(seed=i, hours=i, subject=release)]
        else:
            bad = {3: Caveat.HOT} if i % 4 == 2 else {}
            found.append(measurement(seed=i, hours=i, p50=4 + i, share=0.6 + i / 40, subject=release, bad=bad))
    return found


def test_the_page_is_one_file_that_loads_nothing_and_is_the_same_each_time(tmp_path: Path) -> None:
    page = page_of(mixed(), tmp_path)
    assert page.count("<svg") == 9, "accuracy, three of latencies, one of temperatures, four of layers"
    assert not re.search(r"<(script|link|img|iframe|image)|@import|\bsrc=", page)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    assert page == page_of(mixed(), tmp_path), "no date and no random id"


def test_the_newest_is_first_whatever_the_order_given(tmp_path: Path) -> None:
    page = page_of(mixed(), tmp_path)
    when = re.findall(r'<td class="when">(2026-[^<]*)</td>', page)
    assert when == sorted(when, reverse=True) and len(when) == len(mixed()) == 10
    apart = [m for m in mixed() if m.provenance is Provenance.MEASURED]
    assert page_of(apart, tmp_path) == page_of(apart[::-1], tmp_path)


def test_a_row_shows_a_whole_measurement(tmp_path: Path) -> None:
    one = measurement(bad={1: Caveat.THROTTLED}, subject=subject(release="0123456789abcdef" * 4))
    assert one.latency is not None and one.score is not None and one.latency.p99_ms is not None
    page = page_of([one], tmp_path)
    text, p50 = words_of(page, drawings=False), one.latency.p50_ms
    assert "2026-11-28 05:00 0123456789ab vit-tiny rdk-x5 root@192.168.1.10 BPU (bayes-e) measured" in text
    assert f" {p50.value:.2f} {p50.low:.2f} to {p50.high:.2f} " in text
    assert f" {one.latency.fps:.1f} 4 in flight: {one.throughput[0].fps.value:.1f} " in text
    assert f" {one.score.top1.value:.1f} {one.score.top1.low:.1f} to {one.score.top1.high:.1f} throttled" in text
    assert f'title="{Caveat.THROTTLED.meaning}"' in page


def test_a_percentile_may_have_no_upper_bound_or_be_missing(tmp_path: Path) -> None:
    few = made_rounds(count=3, frames=4)
    open_above = measurement(rounds=few, latency=latency_of([one.samples_ms for one in few]))
    text = words_of(page_of([open_above], tmp_path), drawings=False)
    assert len(re.findall(r"\d at least \d", text)) == 2
    means = measurement(rounds=few, latency=latency_of([one.samples_ms for one in few], per_sample=50))
    assert " not available not available " in words_of(page_of([means], tmp_path), drawings=False)


def test_measured_simulated_and_predicted_are_kept_separate(tmp_path: Path) -> None:
    found = [simulated(), predicted()]
    text = words_of(page_of(found, tmp_path), drawings=False)
    assert "rdk-x5-sim the simulator of bayes-e simulated" in text and "RDK X5 PREDICTED 4 3 to 9, PREDICTED" in text
    assert "Latency, PREDICTED for RDK X5 (rdk-x5-sim)" in text and "Latency, measured" not in text
    assert "Hollow: latency PREDICTED, accuracy simulated; never on a front." in text
    (drawn,) = distributions(found)
    assert drawn.svg is not None and ">PREDICTED<" in drawn.svg
    of_the_simulator = measurement(provenance=Provenance.SIMULATED)  # with what it took on this machine
    text = words_of(page_of([of_the_simulator], tmp_path), drawings=False)
    assert "measured with" not in text and "Latency, " not in text and "No release has both" in text


def test_only_measured_points_are_on_a_front() -> None:
    slow, fast = subject(release="1" * 64, recipe="slow"), subject(release="2" * 64, recipe="fast")
    real = [measurement(p50=9, share=0.9, subject=slow), measurement(seed=1, p50=3, share=0.7, subject=fast)]
    best = subject(release="3" * 64, recipe="best")
    dreamt = [simulated(seed=2, share=1.0, subject=best), predicted(1, 2, 3, seed=2, subject=best)]
    alone, joined = accuracy_against_latency(real).svg, accuracy_against_latency([*real, *dreamt]).svg
    assert alone is not None and joined is not None and "best 3333333" in joined
    assert steps(alone) == steps(joined) == 1
    one_each = accuracy_against_latency([real[0], *dreamt]).svg
    assert one_each is not None and steps(one_each) == 0, "a front of one point is no line"


def steps(svg: str) -> int:
    """Return how many lines of an SVG are fronts, recognized by their opacity and width."""
    return len(re.findall(r"stroke-opacity: 0.7; stroke-width: 1.2", svg))


def test_only_the_newest_measurement_of_a_release_on_a_board_is_drawn() -> None:
    old, new = measurement(hours=0, p50=50), measurement(hours=1, p50=5, bad={1: Caveat.HOT})
    drawn = accuracy_against_latency([new, old])
    assert drawn.svg is not None and drawn.svg.count(">vit-tiny fffffff<") == 1
    assert "Crosses: measured with a caveat" in drawn.words
    assert "Crosses" not in accuracy_against_latency([old, new]).words


def test_only_the_newest_forty_are_drawn_and_a_note_says_so(tmp_path: Path) -> None:
    many = [
        measurement(seed=i % 3, hours=i, subject=subject(release=f"{i:04x}" * 16), layers=(), conditions=())
        for i in range(MAX_SHOWN + 3)
    ]
    page = page_of(many, tmp_path)
    assert "The newest 40 of 43 measurements with a latency." in page
    assert "The newest 40 of 43 releases on a board." in page
    assert page.count('<td class="when">2026') == 43, "the table has all"
    assert "· 0002000 ·" not in page and "· 0003000 ·" in page


def test_missing_sensors_and_profiles_are_reported(tmp_path: Path) -> None:
    text = words_of(page_of([on_cpu()], tmp_path), drawings=False)
    assert "local, CPU (onnxruntime), 2026-11-28 05:00 No sensor was read during the measurement." in text
    assert "vit-tiny ffffffffffff on local, CPU (onnxruntime) The runtime on this board does not report" in text
    bare = [m.model_copy(update={"samples_ms": ()}) for m in measurement().rounds]
    (drawn,) = distributions([measurement(rounds=bare)])
    assert drawn.svg is not None and "Rows without a shape have no times of single frames" in drawn.words


def test_a_page_without_measurements(tmp_path: Path) -> None:
    assert "No measurements yet." in page_of([], tmp_path)


@pytest.mark.parametrize("ms", [5.0, 1e-4, 9e5])
def test_identical_latencies_can_be_drawn(ms: float, tmp_path: Path) -> None:
    same = tuple(one.model_copy(update={"samples_ms": (ms,) * 30}) for one in measurement().rounds)
    flat = measurement(rounds=same, latency=latency_of([one.samples_ms for one in same]))
    assert page_of([flat], tmp_path).count("<svg") == 4


HOSTILE = "<script>alert(1)</script> $\\frac{ & \"quoted\", 'so'\n=1+1"


def test_every_name_is_escaped(tmp_path: Path) -> None:
    names = {"recipe": HOSTILE, "target": HOSTILE, "release": HOSTILE}
    one = measurement(subject=subject(**names), board=HOSTILE, device=HOSTILE, board_id=HOSTILE, runtime=HOSTILE)
    prediction = predicted(subject=subject(**names), board=HOSTILE, device=HOSTILE)
    page = page_of([one, prediction], tmp_path)
    assert "<script" not in page and page.count("&lt;script&gt;alert") >= 6


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_row_of_the_table_has_the_measurement() -> None:
    one = measurement(bad={1: Caveat.HOT, 2: Caveat.NOISY})
    assert one.latency is not None and one.score is not None and one.latency.p99_ms is not None
    (row,) = read(to_csv([one]))
    assert row["provenance"] == "measured" and row["caveats"] == "hot noisy" and row["rounds"] == "20"
    assert row["board"] == "root@192.168.1.10" and row["release"] == "f" * 64 and row["images"] == "200"
    for name, value in (
        ("p50_ms", one.latency.p50_ms),
        ("p99_ms", one.latency.p99_ms),
        ("top1_percent", one.score.top1),
    ):
        assert [row[name], row[f"{name}_low"]] == [repr(value.value), repr(value.low)]
        assert row[f"{name}_high"] == ("" if value.high is None else repr(value.high))
    assert re.fullmatch(r"4=[\d.]+ \[[\d.]+ to [\d.]+\]", row["streams_fps"])
    assert row["predicted_ms"] == "" and float(row["hottest_c"]) > 60


def test_the_table_has_no_latency_of_a_simulator() -> None:
    table = read(to_csv([measurement(provenance=Provenance.SIMULATED), simulated(), predicted()]))
    assert [row["provenance"] for row in table] == ["simulated", "simulated", "predicted"]
    assert all(not row[name] for row in table for name in ("p50_ms", "p99_ms_high", "mean_ms", "fps", "frames"))
    assert [row["predicted_ms"] for row in table] == ["", "", "4.0"]
    assert [row["top1_percent"] == "" for row in table] == [False, False, True]


def test_the_columns_are_stable_and_documented() -> None:
    (header,) = csv.reader(io.StringIO(to_csv([])))
    assert header[:9] == ["made", "session", "provenance", "recipe", "target", "march", "backend", "release", "binary"]
    assert header[9:16] == ["board", "board_id", "device", "runtime", "batch", "rounds", "frames"]
    assert header[16:19] == ["p50_ms", "p50_ms_low", "p50_ms_high"] and header[-1] == "caveats"
    assert len(set(header)) == len(header) == 50
    documented = to_csv.__doc__ or ""
    assert all(re.sub("_(low|high)$", "", name) in documented for name in header)


@given(st.text(max_size=12))
def test_a_name_in_the_table_is_never_a_formula(name: str) -> None:
    (row,) = read(to_csv([predicted(board=name, subject=subject(recipe=f"={name}", target=f"@{name}"))]))
    assert row["recipe"] == f"'={name}" and row["target"] == f"'@{name}"
    assert row["board"] in (name, f"'{name}")
    assert not row["board"].lstrip().startswith(("=", "+", "-", "@"))


def with_samples(taken: list[list[float]]) -> tuple[Round, ...]:
    return tuple(
        one.model_copy(update={"samples_ms": tuple(ms), "frames": len(ms)})
        for one, ms in zip(measurement().rounds, taken, strict=False)
    )


@given(
    st.lists(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=20), min_size=2, max_size=4),
    st.integers(1, 30),
    st.sampled_from([1, 3, 10]),
)
def test_any_samples_make_a_table(taken: list[list[float]], right: int, classes: int) -> None:
    some = with_samples(taken)
    given_answers = answers(share=right / 30, images=30, classes=classes) if classes > 1 else None
    one = measurement(rounds=some, latency=latency_of(taken), score=score(given_answers) if given_answers else None)
    assert len(read(to_csv([one]))) == 1


def test_odd_samples_can_be_drawn(tmp_path: Path) -> None:
    for taken in ([[1.0], [1e4]], [[1e-3], [1e-3]], [[5.0] * 9, [5.0] * 8 + [5000.0]]):
        some = with_samples(taken)
        assert page_of([measurement(rounds=some, latency=latency_of(taken))], tmp_path).count("<svg") == 4


def test_the_page_draws_in_a_browser(tmp_path: Path) -> None:
    page_of(mixed(), tmp_path)
    check_in_browser(tmp_path / "results.html", 1200, 2400)
