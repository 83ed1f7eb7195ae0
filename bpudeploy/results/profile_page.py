"""The page of `profile`: where a binary's time goes, by the compiler's estimate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from bpudeploy.conformance.profile import Profile, Subgraph
from bpudeploy.files import write_atomically
from bpudeploy.results.drawing import ACCENT, CYCLE, OTHER, Plot, figure, label_rows, page, shorter, svg

_PADDED = 15


def write_profiles(profiles: Sequence[tuple[str, Profile]], path: Path) -> None:
    """Write one or two profiles, each with its name, as one self-contained HTML page.

    Raises:
        OSError: it cannot be written.
    """
    shown = [(name, profile, [*_over_time(profile.subgraphs), *_padding(profile)]) for name, profile in profiles]
    kinds = Plot("Time by kind of layer", _kinds(profiles), "Layers overlap: the sum may exceed the latency.")
    write_atomically(path, page("profile.html.jinja", {"shown": shown, "kinds": kinds}))


def _kinds(profiles: Sequence[tuple[str, Profile]]) -> str:
    sums = [(name, profile.kinds()) for name, profile in profiles]
    names = list(dict.fromkeys(kind for _, found in sums for kind in found))[::-1]
    drawn, (axes,) = figure(0.6 + 0.3 * len(names))
    height = 0.8 / len(sums)
    for i, (name, found) in enumerate(sums):
        places = [row + 0.4 - height * (i + 0.5) for row in range(len(names))]
        axes.barh(places, [found.get(kind, 0.0) / 1e3 for kind in names], height, color=CYCLE[i], label=name)
    label_rows(axes, names)
    axes.set_xlabel("ms")
    if len(sums) > 1:
        axes.legend(frameon=False, fontsize=9)
    return svg(drawn)


def _over_time(subgraphs: Sequence[Subgraph]) -> list[Plot]:
    """Return the use of computing units and of memory, the parts one after another."""
    if not subgraphs:
        return []
    starts = [0.0, *accumulate(one.latency_us for one in subgraphs)]
    drawn, (busy, moved) = figure(3.2, panels=2)
    for start, one in zip(starts, subgraphs, strict=False):
        times = [(start + i * one.interval_us) / 1e3 for i in range(len(one.utilization))]
        busy.step(times, [100 * value for value in one.utilization], where="post", color=ACCENT, linewidth=0.8)
        moved.step(times, one.loading, where="post", color=ACCENT, linewidth=0.8, label="loaded" if not start else None)
        moved.step(times, one.storing, where="post", color=OTHER, linewidth=0.8, label="stored" if not start else None)
    busy.set_ylabel("units busy, %")
    busy.set_ylim(0, 100)
    moved.set_ylabel("DDR, MB/s")
    moved.set_xlabel("ms")
    moved.legend(frameon=False, fontsize=9, loc="lower right", ncols=2)
    return [Plot("Use of the accelerator over time", svg(drawn))]


def _padding(profile: Profile) -> list[Plot]:
    """Return the layers that lose most time to padding."""
    lost = sorted(profile.layers, key=lambda layer: layer.compute_us * layer.padding)[-_PADDED:]
    if not lost:
        return []
    drawn, (axes,) = figure(0.6 + 0.24 * len(lost))
    axes.barh(range(len(lost)), [layer.compute_us for layer in lost], color=ACCENT, label="computing")
    axes.barh(range(len(lost)), [layer.compute_us * layer.padding for layer in lost], color=OTHER, label="on padding")
    label_rows(axes, [shorter(layer.name) for layer in lost])
    axes.set_xlabel("us")
    axes.legend(frameon=False, fontsize=9)
    return [Plot("Layers that compute most padding", svg(drawn))]
