"""Measurements, comparisons and the store of results, as lines for people or JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.digest import short

if TYPE_CHECKING:
    from bpudeploy.results.compare import Comparison, LatencyChange
    from bpudeploy.results.golden import SelfCheck
    from bpudeploy.results.measurement import Interval, Measurement


def span(value: Interval, digits: int = 1) -> str:
    """Return an interval in words."""
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def bench_lines(m: Measurement) -> list[str]:
    """Return what was measured: latency, throughput, memory, conditions."""
    from bpudeploy.results.measurement import Provenance

    lines = []
    whose = (
        "of the simulator on this machine, not of a board" if m.provenance is Provenance.SIMULATED else "on the board"
    )
    if m.latency is not None and m.method is not None:
        lines += [
            f"\n  latency {whose}, measured, {m.latency.frames} frames in {len(m.rounds)} rounds, "
            f"each after a load and {m.method.warmup} frames of warm-up",
            *_percentiles(m),
            f"  mean {m.latency.mean_ms:.2f} ± {m.latency.std_ms:.2f} ms, {m.latency.fps:.1f} images/s, "
            f"one stream{f' of {m.batch} images at once' if m.batch > 1 else ''}",
        ]
    for one in m.throughput:
        lines.append(f"  {one.streams} streams: {one.fps.value:.1f} images/s ({span(one.fps)})")
    if m.score is not None and m.score.as_host is not None:
        alike = m.score.as_host
        lines.append(f"  same best class as in integers on the host: {alike.value:.1f} % ({span(alike)})")
    lines.append("  " + "; ".join(_about(m)))
    lines += [f"  CAVEAT {caveat}: {caveat.meaning}" for caveat in m.caveats]
    return lines


def _percentiles(m: Measurement) -> list[str]:
    from bpudeploy.results.latency import frames_for

    assert m.latency is not None
    lines = [f"  p50 {m.latency.p50_ms.value:8.2f} ms  ({span(m.latency.p50_ms, 2)})"]
    for name, q, value in (("p90", 0.9, m.latency.p90_ms), ("p99", 0.99, m.latency.p99_ms)):
        if value is None:
            lines.append(f"  {name}  not stated: the tool on this board tells means only")
        elif value.high is None:
            few = f"at least {value.low:.2f}; {frames_for(q)} independent frames would bound it"
            lines.append(f"  {name} {value.value:8.2f} ms  ({few})")
        else:
            lines.append(f"  {name} {value.value:8.2f} ms  ({value.low:.2f} to {value.high:.2f})")
    return lines


def _about(m: Measurement) -> list[str]:
    from bpudeploy.results.session import hottest

    about = [f"loaded in {m.load_ms.value:.0f} ms ({span(m.load_ms, 0)})"] if m.load_ms is not None else []
    if m.peak_memory_mb is not None:
        about.append(f"peak memory {m.peak_memory_mb:.0f} MB")
    about.append(m.runtime)
    if m.facts is not None:
        about.append(f"{m.facts.cpu or m.facts.machine}, {m.facts.cores} cores")
    heat = hottest(m.conditions)
    if heat is not None:
        about.append(f"at most {heat:.0f} °C")
    return about


def in_words(check: SelfCheck) -> str:
    """Return how the golden self-check went."""
    return (
        f"self-check: {check.same} of {check.images} golden images as on the host, "
        f"logits deviate by {check.deviation:.2g} of their spread (limit {check.limit:g})"
    )


def show_measurements(measured: Sequence[Measurement], as_json: bool) -> None:
    """Print what a bench measured."""
    for m in measured:
        if as_json:
            print(m.model_dump_json())
            continue
        where = f"{m.board} ({m.device})"
        print(f"{m.subject.recipe} for {m.subject.target}, release {short(m.subject.release)}, on {where}")
        if m.score is not None:
            five = f", top-5 {m.score.top5.value:.1f}" if m.score.top5 is not None else ""
            print(f"  top-1 {m.score.top1.value:.1f} % ({span(m.score.top1)}){five}, {m.score.images} images")
        print("\n".join(line.removeprefix("\n") for line in bench_lines(m)))


def show_comparison(found: Comparison, as_json: bool) -> None:
    """Print how B stands to A."""
    if as_json:
        print(json.dumps({**found.model_dump(mode="json"), "verdict": found.verdict}))
        return
    print(f"B {short(found.b)} against A {short(found.a)} on {found.board}, {found.provenance}, {found.design}")
    print(f"  {'':<10} {'A, ms':>9} {'B, ms':>9} {'B to A':>9}  {'95 % interval':<20} verdict")
    for change in (*found.latency, *found.throughput):
        print(_row(change))
    if found.throughput:
        print("  streams: ms an image, 1000 / (images a second)")
    if found.superiority is not None:
        print(f"  a frame of B is faster than one of A in {100 * found.superiority:.0f} % of all pairs")
    if found.accuracy is not None:
        d = found.accuracy
        said = f"{d.points.value:+.1f} points ({span(d.points)}), p = {d.p_value:.2g}"
        print(f"  top-1 that B loses: {said}; {d.verdict}, seen from {d.detectable:.1f}")
    for why in found.because:
        print(f"  note: {why}")
    print(f"  verdict (p50 and top-1; latency from {found.at_least:g} %): B is {_said(found)}")


def _said(found: Comparison) -> str:
    from bpudeploy.results.summary import Verdict

    return "as far as this tells neither better nor worse" if found.verdict is Verdict.CANNOT_TELL else found.verdict


def _row(change: LatencyChange) -> str:
    interval = (
        "not known" if change.interval is None else f"{change.interval.low:+.1f} to {change.interval.high:+.1f} %"
    )
    return (
        f"  {change.what:<10} {change.a_ms:>9.2f} {change.b_ms:>9.2f} {change.percent:>+7.1f} %  {interval:<20} "
        f"{change.verdict}"
    )


def show_history(found: Sequence[Measurement], page: Path) -> None:
    """Print a line a measurement, and where the page is."""
    print(f"{'when':<17} {'release':<13} {'recipe':<22} {'board':<20} {'':<10} {'p50, ms':>9} {'top-1 %':>8}")
    for m in found:
        ms = m.latency.p50_ms.value if m.latency is not None else m.predicted_ms.value if m.predicted_ms else None
        p50 = f"{ms:.2f}" if ms is not None else ""
        top1 = f"{m.score.top1.value:.1f}" if m.score is not None else ""
        caveats = f"  {', '.join(m.caveats)}" if m.caveats else ""
        print(
            f"{m.made[:16]:<17} {short(m.subject.release):<13} {m.subject.recipe:<22} {m.board:<20} "
            f"{m.provenance:<10} {p50:>9} {top1:>8}{caveats}"
        )
    print(f"{page} has the distributions, accuracy against latency, temperatures and layers")
