"""How `estimate` is printed: the word predicted stands beside every figure."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence

from bpudeploy.predict.estimate import Estimate
from bpudeploy.predict.march import Term
from bpudeploy.predict.prediction import Prediction

_WIDTH = 118
_PAPER = "the paper reports up to 3.8x, on boards and networks that its abstract does not name"


def show(found: Sequence[Prediction], top: int) -> None:
    """Print each answer with its ``top`` dearest nodes."""
    lines = [line for one in found for line in (*_one(one, top), "")]
    sys.stdout.write("\n".join(lines) + "\n")


def _one(one: Prediction, top: int) -> Iterator[str]:
    chosen = one.restructured[0]
    yield f"{one.model} on {one.target} ({chosen.board}, {chosen.march}): PREDICTED, nothing was measured"
    yield f"  {one.origin}"
    yield ""
    yield f"  {'predicted latency, one image':<44} {'ms':>8}  {'interval (90 %)':<18} {'bound':<13} segments  CPU nodes"
    for form in (*one.restructured, one.original):
        yield _row(form)
    yield ""
    yield from _hung("speed-up", f"{_speedup(one)}; {_PAPER}")
    if len(one.restructured) == 1:
        yield from _hung("int16", f"{chosen.march} has none")
    yield from _hung("goes to", _shares(chosen))
    yield ""
    yield from _dearest(chosen, top)
    yield from _hung("mind", f"{chosen.basis}.")
    yield from _hung("mind", "it was fitted to no vision transformer: what rests on attention is extrapolated.")


def _row(e: Estimate) -> str:
    interval = f"{_ms(e.predicted_low_ms)} to {_ms(e.predicted_high_ms)}"
    name = f"{e.form}, {e.width}"
    return f"  {name:<44} {_ms(e.predicted_ms):>8}  {interval:<18} {e.bound:<13} {e.segments:>8} {e.cpu_nodes:>10}"


def _speedup(one: Prediction) -> str:
    return f"original to restructured is predicted to be {one.predicted_speedup:.2f}x"


def _shares(e: Estimate) -> str:
    """Return every term that takes a hundredth of the time or more."""
    terms = sorted(((ms, t) for t, ms in e.by_term_ms.items()), key=lambda pair: -pair[0])
    told = [f"{_SAID[t]} {_ms(ms)} ms ({ms / e.predicted_ms:.0%})" for ms, t in terms if ms >= 0.01 * e.predicted_ms]
    return f"{', '.join(told)}; predicted, {e.width}"


_SAID = {
    Term.COMPUTE: "multiply-accumulates",
    Term.WEIGHTS: "reading weights",
    Term.ELEMENTWISE: "elementwise and look-ups",
    Term.LAYOUT: "layout changes",
    Term.ATTENTION: "attention's own traffic",
    Term.INSTRUCTIONS: "starting nodes",
    Term.CPU_BYTES: "CPU nodes' traffic",
    Term.CPU_MACS: "CPU multiply-accumulates",
    Term.HANDOVER: "hand-overs",
    Term.OUTPUT: "giving the output",
}


def _dearest(e: Estimate, top: int) -> Iterator[str]:
    if not top:
        return
    yield f"  {'predicted ms':>12} {'share':>6}  {'on':<4} {'op':<20} node"
    for node in e.nodes[:top]:
        share = node.predicted_ms / e.predicted_ms
        where = "BPU" if node.on_bpu else "CPU"
        yield f"  {node.predicted_ms:>12.3f} {share:>6.1%}  {where:<4} {node.op:<20} {node.name}"
    yield ""


def _ms(value: float) -> str:
    """Return three digits: no prediction is worth more."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _hung(name: str, text: str) -> list[str]:
    head = f"  {name:<10} "
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
