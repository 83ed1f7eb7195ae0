"""Run single operators through the vendor's checker, and write bpudeploy/conformance/measured.

    .venv/bin/python -m benchmarks.operators             # run (about an hour on two cores), resume, then write
    .venv/bin/python -m benchmarks.operators --write     # write from the existing answers
    .venv/bin/python -m benchmarks.operators --agree     # compare inspect with the checker on other networks

Needs `bpudeploy toolchain install`. Answers are kept in .bpudeploy/operators.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from benchmarks.operators.agreement import print_agreement
from benchmarks.operators.build import OP
from benchmarks.operators.checker_runs import FOLDER, answers, run_checker, save
from benchmarks.operators.nets import networks
from bpudeploy.backends.horizon.checker import MARCHES, unit_of
from bpudeploy.backends.horizon.toolchain.installed import Toolchain, installed
from bpudeploy.conformance.graph import read_graph
from bpudeploy.conformance.signature import signature

MEASURED = Path(__file__).parents[2] / "bpudeploy" / "conformance" / "measured"


def write(folders: Iterable[Path], tool: Toolchain) -> None:
    """Count the answers by signature, and write them."""
    counted: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    answered: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for folder in folders:
        for model, answer in answers(folder):
            if answer.refusal is not None:
                refused[answer.march] += 1
                continue
            answered[answer.march] += 1
            for node in read_graph(model):
                kind = signature(node) if node.name == OP and not node.folded else None
                if kind is not None:
                    unit = unit_of(OP, answer.rows)
                    counted[answer.march][kind]["fused" if unit is None else unit.value.lower()] += 1
    for march, found in counted.items():
        source = (
            f"hb_mapper {tool.versions['hb_mapper']} checker (hbdk {tool.versions['hbdk']}), {answered[march]} "
            "single-operator networks, python -m benchmarks.operators"
        )
        lines = [f"  {json.dumps(kind)}: {json.dumps(dict(sorted(found[kind].items())))}" for kind in sorted(found)]
        head = f'{{\n "march": "{march}",\n "source": {json.dumps(source)},\n "signatures": {{\n'
        (MEASURED / f"{march}.json").write_text(head + ",\n".join(lines) + "\n }\n}\n")
        print(f"{march}: {answered[march]} networks, {len(found)} signatures; {refused[march]} networks refused")


def main() -> None:
    """Run the checker, write its placements, or compare inspect with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write from the existing answers")
    parser.add_argument("--agree", action="store_true", help="compare inspect with the checker on other networks")
    args = parser.parse_args()
    tool = installed()
    if tool is None:
        sys.exit("bpudeploy toolchain install")
    if args.agree:
        print_agreement(tool)
        return
    marches = sorted(march.value for march in MARCHES)
    contexts = [(FOLDER / "convolutions", None, marches), (FOLDER / "tables", "Sigmoid", ["bernoulli2"])]
    for folder, around, wanted in contexts:
        folders = save(networks(around).values(), folder)
        if not args.write:
            run_checker(tool, folders, wanted)
    write([folder for folder, _, _ in contexts], tool)


if __name__ == "__main__":
    main()
