"""Latency by the vendor's compiler: as exported, after the exact rewrite, and laid out for the accelerator.

    bpudeploy toolchain install
    .venv/bin/python -m benchmarks.compiled deit_tiny_patch16_224 --target rdk-x5 --forms exact,layout
    .venv/bin/python -m benchmarks.compiled deit_tiny_patch16_224 --blocks 2         the first two blocks only
    .venv/bin/python -m benchmarks.compiled --table                                  what is known, in Markdown

`hb_mapper makertbin --fast-perf`: all int8, O3, no images. Random weights: nothing here is an accuracy. Latencies are
the compiler's estimates for the BPU; operators on the CPU count as nothing, so their number stands beside. Every row is
kept in .bpudeploy/compiled.jsonl; a row that is there is not compiled again. A compilation ends after ``--minutes``.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from bpudeploy.backends.horizon.fast import fast_profile
from bpudeploy.backends.horizon.toolchain.installed import installed
from bpudeploy.errors import StageError
from bpudeploy.layout.lay_out import laid_out
from bpudeploy.restructure.export import network_of_module
from bpudeploy.restructure.rewrite import rewrite
from bpudeploy.spec.compile_options import HbMapperOptions
from bpudeploy.spec.load import load_target
from bpudeploy.spec.target import Target
from bpudeploy.stages.timm_models import create, describe, reparameterized

ROWS = Path(__file__).parents[1] / ".bpudeploy" / "compiled.jsonl"
FORMS = ("original", "exact", "layout")
OPSET = 11


@dataclass(frozen=True)
class Row:
    """One compilation. ``latency_ms``: the compiler's estimate; None if it failed or took too long: ``failure``."""

    model: str
    blocks: int | None
    target: str
    form: str
    latency_ms: float | None
    cpu_nodes: int
    subgraphs: int
    compile_s: float
    failure: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return self.model, self.blocks, self.target, self.form


def network(name: str, blocks: int | None, form: str, target: Target) -> onnx.ModelProto:
    """Return a timm model with random weights in one of ``FORMS``."""
    torch.manual_seed(0)
    model = create(name, image_size=None, num_classes=None)
    if blocks is not None:
        model.blocks = model.blocks[:blocks]
    shape = (1, 3, *describe(model, name, None).image_size)
    if form == "original":
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (torch.zeros(shape),), file, opset_version=OPSET, dynamo=False)
        return onnx.load_from_string(file.getvalue())
    exact = rewrite(network_of_module(reparameterized(model), shape))
    if form == "exact":
        return exact.model
    return laid_out(exact.model, target.layout, exact.keep_float)


def measure(name: str, blocks: int | None, target: Target, form: str, minutes: int) -> Row:
    """Compile one form; a refusal, a crash and a compilation that takes too long are rows too."""
    started, failure, found = time.monotonic(), "", None
    try:
        model = network(name, blocks, form, target)
        found = fast_profile(model, target.march, HbMapperOptions(minutes=minutes), lambda event: None)
    except StageError as error:
        failure = str(error).splitlines()[0][:200]
    return Row(
        model=name,
        blocks=blocks,
        target=target.name,
        form=form,
        latency_ms=round(found.total_us / 1e3, 4) if found is not None and found.subgraphs else None,
        cpu_nodes=len(found.on_cpu) if found is not None else 0,
        subgraphs=len(found.subgraphs) if found is not None else 0,
        compile_s=round(time.monotonic() - started, 1),
        failure=failure,
    )


def known() -> dict[tuple[object, ...], Row]:
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.is_file() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {row.key: row for row in rows}


def table(rows: dict[tuple[object, ...], Row]) -> Iterator[str]:
    """Yield a Markdown table, a line for each network and target."""
    yield "| network | target | as exported, ms | exact rewrite, ms | laid out, ms | faster | CPU nodes | compile s |"
    yield "|---|---|---|---|---|---|---|---|"
    for model, blocks, target in dict.fromkeys((r.model, r.blocks, r.target) for r in rows.values()):
        found = [rows.get((model, blocks, target, form)) for form in FORMS]
        times = [row.latency_ms if row is not None else None for row in found]
        last = found[2] or found[1]
        ours = last.latency_ms if last is not None else None
        faster = f"{times[0] / ours:.1f}" if times[0] and ours else ""
        cells = [_cell(row) for row in found]
        cpu, seconds = ("/".join(_text(row, name) for row in found) for name in ("cpu_nodes", "compile_s"))
        name = f"{model}, {blocks} blocks" if blocks else str(model)
        yield f"| {name} | {target} | {' | '.join(cells)} | {faster} | {cpu} | {seconds} |"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return row.failure or (f"{row.latency_ms:.3g}" if row.latency_ms is not None else "")


def _text(row: Row | None, name: str) -> Any:
    return "-" if row is None else f"{getattr(row, name):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--target", action="append", help="rdk-x5 by default; repeatable")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    rows = known()
    if given.table:
        print(*table(rows), sep="\n")
        return
    if installed() is None:
        sys.exit("run `bpudeploy toolchain install` first")
    for name in given.models:
        for target in (load_target(each, Path())[0] for each in given.target or ["rdk-x5"]):
            for form in given.forms.split(","):
                if (name, given.blocks, target.name, form) in rows:
                    continue
                row = measure(name, given.blocks, target, form, given.minutes)
                ROWS.parent.mkdir(parents=True, exist_ok=True)
                with ROWS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main()
