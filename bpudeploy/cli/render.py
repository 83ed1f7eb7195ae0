"""The only printer: events and results to the terminal, or the same values as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.cli.render_bench import bench_lines, in_words, span
from bpudeploy.digest import short
from bpudeploy.errors import BpudeployError, SpecError
from bpudeploy.events import Event, Note, Progress, StepFinished, StepStarted, StepWaiting

if TYPE_CHECKING:
    from bpudeploy.backends.base import Backend
    from bpudeploy.plan.look import Outlook
    from bpudeploy.predict.estimate import Estimate
    from bpudeploy.quantize.findings import LayerReport, PromotionCandidate, RepairReport
    from bpudeploy.results.summary import Accuracy, Quantization, Summary
    from bpudeploy.run.runner import RunResult
    from bpudeploy.spec.load import Resolved
    from bpudeploy.spec.target import Target
    from bpudeploy.store.gc import Collected, Entry

_REDRAW_S = 0.1


class Live:
    """Draws events as they come: on standard output, or on standard error when that is for JSON."""

    def __init__(self, as_json: bool) -> None:
        self._out = sys.stderr if as_json else sys.stdout
        self._tty = self._out.isatty()
        self._drawn = 0.0
        self._began: dict[tuple[str, int], tuple[float, int]] = {}
        self._open = False

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def draw_of(self, recipe: str, event: Event) -> None:
        """Draw an event of one recipe among several."""
        self.draw(replace(event, step=f"{recipe} {event.step}"))

    def draw(self, event: Event) -> None:
        """Draw one event."""
        match event:
            case StepStarted(step):
                if self._tty:
                    self._line(f"  {step} ...")
            case StepWaiting(step):
                self._say(f"  {step:<22} another run is making it: waiting")
            case StepFinished(step, cache, digests, seconds, peak_mb):
                took = "stored" if cache == "hit" else f"{seconds:.1f} s"
                memory = f"{peak_mb:.0f} MB" if cache == "miss" and peak_mb else ""
                self._say(f"  {step:<22} {took:>8} {memory:>8}  {' '.join(short(d) for d in digests)}")
            case Note(step, text):
                self._say(f"  {step:<22} {text}")
            case Progress(step, done, total, unit):
                now = time.monotonic()
                since, before = self._began.setdefault((step, total), (now, done))
                if self._tty and (now - self._drawn > _REDRAW_S or done == total):
                    self._drawn = now
                    pace = _pace(done - before, now - since, total - done) if unit == "bytes" else ""
                    self._line(f"  {step:<22} {_amount(done, total, unit)}{pace}")

    def _say(self, text: str) -> None:
        self._clear()
        print(text, file=self._out, flush=True)

    def _line(self, text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=self._out, flush=True)
        self._open = True

    def _clear(self) -> None:
        if self._open:
            print("\r\x1b[K", end="", file=self._out, flush=True)
            self._open = False


def _amount(done: int, total: int, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    return f"{done} of {total} {unit}"


def _pace(moved: int, seconds: float, left: int) -> str:
    """Return the rate since the first word about it, and the time left at that rate; nothing before half a second."""
    if seconds < 0.5 or moved <= 0:
        return ""
    rate = moved / seconds
    return f", {rate / 1e6:.1f} MB/s, {max(left, 0) / rate:.0f} s left"


def show_json(value: Any, indent: int | None = None) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=indent))


def show_error(error: BpudeployError, as_json: bool) -> None:
    """Print an error, with every other one that was found with it, on standard error."""
    errors = [error, *(error.others if isinstance(error, SpecError) else ())]
    if as_json:
        found = [
            {
                "message": e.message,
                "where": str(e.where) if e.where else None,
                "field": getattr(e, "field", None),
                "hint": e.hint,
            }
            for e in errors
        ]
        print(json.dumps({"errors": found}), file=sys.stderr)
        return
    for one in errors:
        place = f"{one.where}: " if one.where else ""
        print(f"error: {place}{one.message}", file=sys.stderr)
        field = getattr(one, "field", None)
        if field and field not in one.message:
            print(f"  field: {field}", file=sys.stderr)
        if one.hint:
            print(f"  fix: {one.hint}", file=sys.stderr)


def show_interrupted() -> None:
    """Say that Ctrl-C came and that nothing is broken."""
    print("\nstopped; what was finished is in the store, run again to go on", file=sys.stderr)


def show_plan(resolved: Resolved, outlooks: Sequence[Outlook], effects: bool, as_json: bool) -> None:
    """Print what a run would do, step by step."""
    recipe, target = resolved.recipe, resolved.target
    if as_json:
        steps = [{"step": o.step, "state": o.state, "reason": o.reason, "key": o.key} for o in outlooks]
        found = {"recipe": recipe.name, "target": target.name, "files": [str(f) for f in resolved.files]}
        show_json({**found, "steps": steps, "lacks": _lacks(resolved)})
        return
    print(f"{recipe.name} for {target.name} ({target.description})")
    for o in outlooks:
        reason = "" if o.reason.startswith("after ") else o.reason
        print(f"  {o.step:<22} {o.state:<6} {reason}{o.after or ''}".rstrip())
    print("".join(f"  a run lacks: {lack}\n" for lack in _lacks(resolved)), end="")
    if not effects:
        return
    if any(o.step == "compile" for o in outlooks):
        print(f"  {'push':<22} asks the board which release it has; sends only a new one")
        print(f"  {'benchmark':<22} always measures")
    else:
        print(f"  {'compile':<22} {target.backend} is not on this machine; `run --until compile` says how to get it")


def show_explanation(outlooks: Sequence[Outlook], as_json: bool) -> None:
    """Print each step's state, reason and key parts."""
    if as_json:
        show_json(
            [{"step": o.step, "state": o.state, "reason": o.reason, "key": o.key, "parts": o.parts} for o in outlooks]
        )
        return
    for o in outlooks:
        if o.parts is None:
            print(f"{o.step}: {o.reason}" + (", its key is known when that step has run" if o.after else ""))
            continue
        print(f"{o.step}: {o.state}, {o.reason}")
        print(f"  key {o.key}")
        for name, value in o.parts.items():
            print(f"  {name}: {json.dumps(value) if isinstance(value, dict) else value}")


def show_built(name: str, result: RunResult, repair: RepairReport | None, as_json: bool) -> None:
    """Print the artifacts of a run that stopped before the board, and whether a promised accuracy holds."""
    if as_json:
        steps = {
            step: {"cache": "hit" if r.hit else "miss", "artifacts": {a.digest: str(a.path) for a in r.artifacts}}
            for step, r in result.steps.items()
        }
        kept = repair.model_dump(mode="json") if repair is not None else None
        show_json({"recipe": name, "steps": steps, "repair": kept})
        return
    gave = list(result.steps.values())[-1].artifacts
    last = next((a for a in reversed(gave) if a.kind != "findings"), gave[-1])
    told = f", and its findings are {gave[-1].path}" if gave[-1] is not last else ""
    print(f"{name}: {len(result.ran)} of {len(result.steps)} steps ran; the last artifact is {last.path}{told}")
    if repair is not None:
        print(f"  {in_a_line(repair)}")


def in_a_line(repair: RepairReport) -> str:
    """Say whether a promised accuracy holds, on this machine, and what it took."""
    from bpudeploy.quantize.findings import RepairOutcome

    taken = f"{len(repair.promoted)} more taps in int16, predicted slowdown {repair.slowdown:.3f}"
    how = {
        RepairOutcome.NOT_NEEDED: "holds as it is",
        RepairOutcome.REPAIRED: f"holds with {taken}",
        RepairOutcome.BEST_EFFORT: f"BROKEN; the best that {len(repair.trials)} trials reached, with {taken}",
        RepairOutcome.NOT_POSSIBLE: "BROKEN; nothing can be promoted to int16",
    }[repair.outcome]
    return f"gate max_drop {repair.max_drop:g} points, on this machine: {repair.drop:+.2f}, {how}"


def show_summary(summary: Summary, as_json: bool) -> None:
    """Print a run's figures."""
    if as_json:
        print(summary.model_dump_json())
        return
    m = summary.measurement
    simulating = f", simulating {summary.predicted.board}" if summary.predicted is not None else ""
    print(f"\n{summary.recipe} on {summary.target}, release {short(summary.release)}, device {m.device}{simulating}")
    for warning in summary.warnings:
        print(f"  warning: {warning}")
    wide = max(14, *(len(a.form) for a in summary.accuracy))
    print(f"\n  {'accuracy':<{wide}} {'computed on':<19} {'top-1 %':>8}  {'95 % interval':<15} lost, points")
    for a in summary.accuracy:
        print(f"  {a.form:<{wide}} {a.where:<19} {a.top1.value:>8.1f}  {span(a.top1):<15} {_lost(a)}".rstrip())
    print("  n.s.: no significant difference at this sample size; seen from: the smallest loss that would be one")
    print(f"  preprocessing {summary.preprocess}")
    print(f"  the rewrite differs from float by {summary.proof_difference:.1e} of the logits' range at worst")
    if summary.quantization is not None:
        _show_quantization(summary.quantization)
    if summary.predicted is not None:
        print("\n".join(_predicted(summary.predicted)))
    for line in bench_lines(summary.measurement):
        print(line)
    print(f"  {in_words(summary.self_check)}")
    for g in summary.gates:
        print(f"  gate {g.name} {g.limit:g} {g.unit}: {g.value:.3g}, {'holds' if g.holds else 'BROKEN'}")
    print(f"\n  report: {summary.run_directory}/report.html")


def _predicted(e: Estimate) -> list[str]:
    """Return what is predicted for a simulated board."""
    interval = f"{e.predicted_low_ms:.3g} to {e.predicted_high_ms:.3g}"
    return [
        f"\n  latency on {e.board}: PREDICTED {e.predicted_ms:.3g} ms ({interval}), {e.bound}-bound; nothing measured",
        f"  {e.segments} BPU segments, {e.cpu_nodes} nodes on the CPU; {e.basis}",
    ]


def _show_quantization(found: Quantization) -> None:
    taps = ", ".join(f"{count} in {precision}" for precision, count in found.taps.items())
    print(f"\n  quantized: {taps}; {'; '.join(found.levers)}")
    show_worst(found.layers, 5)
    if found.repair is not None:
        print(f"  {in_a_line(found.repair)}")
        if len(found.repair.trials) > 1:
            tried = ", ".join(f"{t.promoted}: {t.drop:+.2f}" for t in found.repair.trials)
            print(f"  tried, taps in int16 and points lost: {tried}; chosen on these images, so a little too good")


def show_sensitivity(
    resolved: Resolved, ranked: Sequence[PromotionCandidate], layers: LayerReport, as_json: bool
) -> None:
    """Print what each int8 tap alone does, and every layer, the worst first."""
    if as_json:
        show_json(
            {
                "recipe": resolved.recipe.name,
                "target": resolved.target.name,
                "candidates": [c.model_dump(mode="json") for c in ranked],
                "layers": layers.model_dump(mode="json"),
            }
        )
        return
    print(f"{resolved.recipe.name} for {resolved.target.name}: int8 taps by what int16 would bring for its cost")
    print(f"  {'alone':>9}  {'int16':>8}  tap, and the products that read it")
    for c in ranked:
        cost = "stays" if c.cost is None else f"{100 * c.cost:+.2f} %"
        print(f"  {c.error:>9.2e}  {cost:>8}  {c.tap}: {', '.join(c.products)}")
    print("  alone: squared error of the outputs over their variance when only this tap is rounded")
    print("  int16: predicted time more, from counts and the target's rule, not measured; stays: the march has none")
    show_worst(layers, len(layers.layers))


def show_worst(layers: LayerReport, count: int) -> None:
    """Print the layers that int8 hurts most."""
    print(f"  the worst of {len(layers.layers)} layers against float, {layers.images} images")
    for layer in layers.layers[:count]:
        inputs = f"{layer.input_precisions:<12} {layer.op:<7}"
        print(f"    {layer.sqnr_db:6.1f} dB  cosine {layer.cosine:.5f}  {inputs} {layer.node}")


def _lost(accuracy: Accuracy) -> str:
    from bpudeploy.results.summary import Verdict

    drop = accuracy.drop
    if drop is None:
        return ""
    unknown = f"n.s. at {accuracy.images} images, seen from {drop.detectable:.1f}"
    verdict = unknown if drop.verdict is Verdict.CANNOT_TELL else drop.verdict
    return f"{drop.points.value:+.1f} ({span(drop.points)}), p = {drop.p_value:.2g}, {verdict}"


def show_note(text: str, as_json: bool) -> None:
    """Print one line of words."""
    print(json.dumps({"note": text}) if as_json else text)


def show_warning(text: str) -> None:
    """Print a line of words on standard error, beside what goes to standard output."""
    print(f"warning: {text}", file=sys.stderr)


def show_text(text: str) -> None:
    """Print text as it is."""
    sys.stdout.write(text)


def show_valid(path: Path, resolved: Resolved, as_json: bool) -> None:
    """Print that a recipe is valid."""
    if as_json:
        found = {"file": str(path), "recipe": resolved.recipe.model_dump(mode="json"), "lacks": _lacks(resolved)}
        return show_json(found)
    valid = f"{path}: {resolved.recipe.name} for {resolved.target.name} is valid"
    print("\n  a run lacks: ".join([valid, *_lacks(resolved)]))


def _lacks(resolved: Resolved) -> list[str]:
    """Return, a line each, what a run of the recipe would refuse to begin without."""
    return [f"{lack.where}: {lack.message}; {lack.hint}" for lack in resolved.lacks]


def show_pin(field: str, digest: str, as_json: bool) -> None:
    """Print a digest as the recipe should have it."""
    if as_json:
        show_json({"field": field, "sha256": digest})
        return
    print(f"{field}.sha256: {digest}")


def show_head(path: Path, digest: str, as_json: bool) -> None:
    """Print where a fitted head is."""
    if as_json:
        show_json({"file": str(path), "sha256": digest})
        return
    print(f"{path}: sha256 {digest}")


def show_targets(targets: Sequence[Target], installed: Sequence[str], as_json: bool) -> None:
    """Print the targets."""
    if as_json:
        show_json([t.model_dump(mode="json") for t in targets])
        return
    for t in targets:
        missing = "" if t.backend in installed else " (not in this version)"
        print(f"  {t.name:<10} {t.march:<11} {t.backend + missing:<34} {t.description}")


def show_backends(backends: Sequence[Backend], as_json: bool) -> None:
    """Print the installed backends."""
    tools = {b.name: _tools(b) for b in backends}
    if as_json:
        show_json([{"name": b.name, "runtime": b.runtime, "tools": tools[b.name]} for b in backends])
        return
    for b in backends:
        found = ", ".join(f"{tool} {version}" for tool, version in (tools[b.name] or {}).items())
        print(f"  {b.name:<10} runs on {b.runtime:<12} {found or 'not on the PATH of this machine'}")


def _tools(backend: Backend) -> dict[str, str] | None:
    """Return a backend's tools as its default options find them; None where they are not here."""
    from bpudeploy.backends.base import ToolMissing

    try:
        return dict(backend.fingerprint(backend.options_type()))
    except ToolMissing:
        return None


def show_usage(root: Path, entries: Sequence[Entry], as_json: bool) -> None:
    """Print the store's records, oldest first."""
    if as_json:
        show_json([{"step": e.record.step, "key": e.record.key, "days": e.age_days, "bytes": e.size} for e in entries])
        return
    for e in entries:
        print(f"  {e.record.step:<22} {short(e.record.key)} {e.size / 1e6:>9.2f} MB {e.age_days:>6.1f} days")
    objects = {o.digest: o.size for e in entries for o in e.record.outputs}
    print(f"{root}: {len(entries)} records, {len(objects)} objects, {sum(objects.values()) / 1e6:.1f} MB")


def show_collected(collected: Collected, dry_run: bool, as_json: bool) -> None:
    """Print what gc removed."""
    if as_json:
        show_json({"records": collected.records, "objects": collected.objects, "bytes": collected.size})
        return
    verb = "would remove" if dry_run else "removed"
    print(f"{verb} {collected.records} records and {collected.objects} objects, {collected.size / 1e6:.1f} MB")


def show_verified(count: int, damaged: Sequence[str], as_json: bool) -> None:
    """Print what verify found."""
    if as_json:
        show_json({"objects": count, "damaged": list(damaged)})
        return
    for digest in damaged:
        print(f"  {digest} was damaged and is removed; the next run makes it again")
    print(f"{count} objects read, {len(damaged)} damaged")
