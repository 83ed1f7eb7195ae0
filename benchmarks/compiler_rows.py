"""The compiler's estimates of blocks and of whole networks on X5, Ultra and X3, for the latency model's next fit.

    bpudeploy toolchain install
    .venv/bin/python -m benchmarks.compiler_rows blocks              seconds each, a few take minutes
    .venv/bin/python -m benchmarks.compiler_rows networks            one to three minutes each

Graphs are timm's with random weights, rewritten exactly and laid out for the target, as `run` compiles them. All int8,
O3 (`hb_mapper makertbin --fast-perf`). Each row is kept in ``benchmarks/compiler_rows.json`` with what the latency
model counts of its graph; a row that is there is not compiled again. What the tool refuses is a row without latency.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import onnx

from benchmarks.compiled import network
from bpudeploy.backends.horizon.fast import fast_profile
from bpudeploy.errors import StageError
from bpudeploy.layout.blocks import Block, distinct_blocks
from bpudeploy.layout.lay_out import laid_out
from bpudeploy.predict.march import march_model
from bpudeploy.predict.workload import count_workload
from bpudeploy.spec.compile_options import HbMapperOptions
from bpudeploy.spec.load import load_target
from bpudeploy.spec.target import Target

ROWS = Path(__file__).with_name("compiler_rows.json")
TARGETS = ("rdk-x5", "rdk-ultra", "rdk-x3")
BLOCKS_EACH = 4
"""Of one network for one target: those that occur most often."""
LARGEST = 120
"""Nodes of a block."""

_SMALL = """
mobilenetv2_050 mobilenetv2_100 mobilenetv3_small_050 mobilenetv3_large_100 resnet18 efficientnet_lite0 repvgg_a0
mobileone_s0 mobilenetv4_conv_small regnetx_002 mnasnet_100 tinynet_e repghostnet_100 levit_128s
"""
_LARGE = """
resnet50 resnext50_32x4d regnety_008 convnext_atto fasternet_t0 densenet121 dla34 repvit_m0_9 edgenext_xx_small
fastvit_t8 efficientformer_l1 efficientformerv2_s0 efficientvit_m0 efficientvit_b0 mobilevit_xxs mobilevitv2_050
deit_tiny_patch16_224 deit_small_patch16_224 vit_base_patch32_224 swin_tiny_patch4_window7_224 visformer_tiny
poolformer_s12 tiny_vit_5m_224 xcit_nano_12_p16_224 pvt_v2_b0 coat_lite_tiny twins_svt_small pit_ti_224
"""
SMALL = tuple(_SMALL.split())
"""Compiled whole too."""
LARGE = tuple(_LARGE.split())


@dataclass(frozen=True)
class Row:
    """``part``: the first node of a block; empty for a whole network. ``amounts``: of each term of the model."""

    network: str
    part: str
    target: str
    nodes: int
    compiler_us: float | None
    cpu_nodes: int
    amounts: dict[str, float]
    failure: str = ""

    @property
    def key(self) -> str:
        return f"{self.network} {self.target} {self.part}".rstrip()


def read_rows() -> dict[str, Row]:
    """Return the rows that are kept, by key."""
    found = [Row(**row) for row in json.loads(ROWS.read_text())] if ROWS.is_file() else []
    return {row.key: row for row in found}


def write_rows(rows: dict[str, Row]) -> None:
    lines = [json.dumps(asdict(rows[key])) for key in sorted(rows)]
    ROWS.write_text("[\n" + ",\n".join(lines) + "\n]\n")


@cache
def exact(name: str) -> onnx.ModelProto:
    """Return a timm network, rewritten exactly."""
    return network(name, None, "exact", load_target(TARGETS[0], Path())[0])


def chosen_blocks(name: str) -> list[Block]:
    """Return the blocks of a network that are rows."""
    small = [b for b in distinct_blocks(exact(name)) if len(b.model.graph.node) <= LARGEST]
    often = sorted(small, key=lambda b: -b.count)[:BLOCKS_EACH]
    return [b for b in small if b in often]


def amounts_of(graph: onnx.ModelProto, target: Target) -> dict[str, float]:
    """Return the amount of each term in a graph as it is compiled."""
    model = march_model(target.march)
    work = count_workload(graph, model.march, model.array)
    totals: dict[str, float] = {}
    for node in work.nodes:
        for term, amount in node.amounts.items():
            totals[term.value] = totals.get(term.value, 0.0) + amount
    return {term: float(f"{amount:.6g}") for term, amount in totals.items()}


def compiled(name: str, part: str, graph: onnx.ModelProto, target: Target, minutes: int) -> Row:
    """Compile one graph; what the tool refuses is a row too."""
    made, failure, found = laid_out(graph, target.layout), "", None
    try:
        found = fast_profile(made, target.march, HbMapperOptions(minutes=minutes), lambda event: None)
    except StageError as error:
        failure = str(error).splitlines()[0][:160]
    return Row(
        network=name,
        part=part,
        target=target.name,
        nodes=len(made.graph.node),
        compiler_us=round(found.total_us, 2) if found is not None and found.subgraphs else None,
        cpu_nodes=len(found.on_cpu) if found is not None else 0,
        amounts=amounts_of(made, target),
        failure=failure,
    )


def graphs(name: str, verb: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the parts of a network that are rows."""
    if verb == "networks":
        yield "", exact(name)
    else:
        yield from ((block.name, block.model) for block in chosen_blocks(name))


def collect(names: Sequence[str], targets: Sequence[Target], verb: str, minutes: int) -> None:
    rows = read_rows()
    for name in names:
        for part, graph in graphs(name, verb):
            for target in targets:
                key = f"{name} {target.name} {part}".rstrip()
                if key in rows:
                    continue
                started = time.monotonic()
                rows[key] = row = compiled(name, part, graph, target, minutes)
                write_rows(rows)
                print(f"{key}: {row.compiler_us} us {row.failure} ({time.monotonic() - started:.0f} s)", flush=True)
        exact.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("blocks", "networks"))
    parser.add_argument("names", nargs="*", help="timm's names (default: those that are in this file)")
    parser.add_argument("--target", action="append", help=f"{', '.join(TARGETS)} by default; repeatable")
    parser.add_argument("--minutes", type=int, default=10, help="the longest a compilation may take")
    given = parser.parse_args()
    names = given.names or (SMALL if given.verb == "networks" else [*SMALL, *LARGE])
    targets = [load_target(target, Path())[0] for target in given.target or TARGETS]
    collect(names, targets, given.verb, given.minutes)


if __name__ == "__main__":
    main()
