"""Fit the latency model of every march to published figures, and say how it does on families it never saw.

    .venv/bin/python -m benchmarks.fit_latency ../shared/data/published_latency_train.csv            # about 2 minutes
    .venv/bin/python -m benchmarks.fit_latency ../shared/data/published_latency_train.csv --counted  # seconds

Counts what each published network asks of its board (random weights: shapes alone matter), fits the rates, writes
``bpudeploy/predict/marches/*.yaml`` and ``benchmarks/latency_counts.json``. ``--counted`` reads the counts that are
there, and needs neither torch nor timm; ``--check`` writes nothing and fails where a file would change.
The published figures themselves go into no file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path

import yaml

from benchmarks.latency_rates import FitResult, HeldOutPrediction, Row, family_error, fit, robust_deviation
from benchmarks.latency_rows import Published, family_of, published
from bpudeploy.conformance.report import Form
from bpudeploy.predict.estimate import PrecisionMode, int16_factors
from bpudeploy.predict.march import MacArray, MarchModel, Term
from bpudeploy.predict.workload import count_workload
from bpudeploy.spec.load import load_target
from bpudeploy.spec.target import March

COUNTS = Path(__file__).with_name("latency_counts.json")
MARCHES = Path(__file__).parents[1] / "bpudeploy" / "predict" / "marches"
AIM = 0.15
"""Median error on families that a fit has not seen, at most."""
Counts = dict[str, dict[str, float]]

_BPU = (Term.COMPUTE, Term.ELEMENTWISE, Term.LAYOUT, Term.ATTENTION)
_CPU = (Term.CPU_BYTES, Term.CPU_MACS, Term.OUTPUT)
EXPECTED = {
    Term.COMPUTE: 0.4,
    Term.WEIGHTS: 0.1,
    Term.ELEMENTWISE: 0.01,
    Term.LAYOUT: 0.02,
    Term.ATTENTION: 0.1,
    Term.INSTRUCTIONS: 0.005,
    Term.CPU_BYTES: 1.0,
    Term.CPU_MACS: 80.0,
    Term.HANDOVER: 0.05,
    Term.OUTPUT: 2.0,
}
"""What bayes-e is expected to take, ms per unit, before any figure is seen: half of 10 TOPS; 10 GB/s of DDR; 100 GB/s
on chip, half of it for moves, a tenth for attention; 5 us to start a node; a quarter of what eight A55 could."""


@dataclass(frozen=True)
class Board:
    """A march's board. ``bpu``, ``ddr`` and ``cpu``: how many times longer than ``like``'s each is expected to take."""

    march: March
    name: str
    array: MacArray
    bpu: float = 1.0
    ddr: float = 1.0
    cpu: float = 1.0
    why: str = "half of 10 TOPS, 10 GB/s of DDR, 100 GB/s on chip, a quarter of what 8 A55 could"
    like: str = "RDK X5"


_SMALL, _LARGE = MacArray(channels_in=16, channels_out=16), MacArray(channels_in=32, channels_out=32)
BOARDS = (
    Board(March.BAYES_E, "RDK X5", _LARGE),
    Board(March.BERNOULLI2, "RDK X3", _SMALL, 4.0, 1.0, 2.5, "2.5 TOPS a core; DDR as X5, assumed; 4 A53 at 1.2 GHz"),
    Board(March.NASH_E, "RDK S100", _LARGE, 1 / 8, 0.22, 0.35, "80 TOPS; 77 GB/s; 6 A78AE at 1.5 GHz, CPU assumed"),
    Board(March.NASH_M, "RDK S100P", _LARGE, 1 / 1.6, 1.0, 0.75, "128 TOPS; DDR as S100; 2.0 GHz CPU", "RDK S100"),
    Board(
        March.BAYES, "RDK Ultra", _LARGE, 1 / 4.8, 0.5, 1.0, "96 TOPS in 2 cores [?]; DDR twice X5's, assumed; 8 A55"
    ),
)
SOURCES = {
    "published latencies": "github.com/D-Robotics/rdk_model_zoo, hrt_model_exec perf, 1 thread, performance mode",
    "TOPS, cores and clocks": "github.com/D-Robotics/rdk_doc, github.com/D-Robotics/rdk_s_doc",
    "array": "32 channels (16 on X3) assumed: what fits depthwise and grouped convolutions without a rate of their own",
}


def count(rows: Sequence[Published]) -> Counts:
    """Return, by board and network, the amounts of every term; a row without a graph has none."""
    from benchmarks.latency_graphs import ALL_INT16, Network

    boards = {b.name: b for b in BOARDS}
    wanted: dict[Network, dict[str, Board]] = {}
    for row in rows:
        if family_of(row.model) is not None:
            wanted.setdefault(Network(row.model, row.task, row.pixels), {})[row.board] = boards[row.board]
    rules = load_target("rdk-x5", Path())[0].precision
    found: Counts = {}
    for number, (network, where) in enumerate(wanted.items(), 1):
        print(f"\r\033[Kcounting {number}/{len(wanted)} {network.model}", end="", file=sys.stderr, flush=True)
        model, constants = network.graph()
        for board in where.values():
            work = count_workload(model, board.march, board.array, constants, Form.ORIGINAL, trained=False)
            mode = PrecisionMode.INT16 if network.model in ALL_INT16 else PrecisionMode.INT8
            amounts = dict.fromkeys(Term, 0.0)
            for node in work.nodes:
                wide = int16_factors(node, rules, mode)
                for term, amount in node.amounts.items():
                    amounts[term] += amount * wide.get(term, 1.0)
            key = Published(board.name, network.model, network.task, network.pixels, 0.0).key
            found[key] = {t.value: float(f"{a:.6g}") for t, a in amounts.items()}
    print("\r\033[K", end="", file=sys.stderr)
    return found


def read_counts() -> Counts:
    """Return the committed counts."""
    found: Counts = json.loads(COUNTS.read_text())
    return found


def rows_of(rows: Sequence[Published], counts: Counts, board: Board) -> list[Row]:
    """Return the board's rows that have a graph."""
    found = []
    for row in rows:
        amounts, family = counts.get(row.key), family_of(row.model)
        if row.board == board.name and amounts is not None and family is not None:
            found.append(Row(row.model, family, row.published_ms, {Term(t): a for t, a in amounts.items()}))
    return found


def scaled(board: Board, rates: dict[Term, float]) -> dict[Term, float]:
    """Return what the rates of the board that this one is like become on it, by the known ratios."""
    by = dict.fromkeys(_BPU, board.bpu) | dict.fromkeys(_CPU, board.cpu) | {Term.WEIGHTS: board.ddr}
    return {t: r * by.get(t, 1.0) for t, r in rates.items()}


def models(
    rows: Sequence[Published], counts: Counts
) -> tuple[list[MarchModel], dict[str, tuple[HeldOutPrediction, ...]]]:
    """Return a model of every march, and how each fitted one did on what it had not seen."""
    found: list[MarchModel] = []
    fits: dict[str, FitResult] = {}
    off: list[float] = []
    for board in BOARDS:
        mine, like = rows_of(rows, counts, board), fits.get(board.like)
        if like is None:
            fits[board.name] = fit(mine, EXPECTED)
        else:
            expected = scaled(board, like.rates)
            if not mine:
                found.append(_scaled_model(board, expected, like.spread, off))
                continue
            off += (
                []
                if like is not fits[BOARDS[0].name]
                else [abs(log(sum(expected[t] * a for t, a in r.amounts.items()) / r.published_ms)) for r in mine]
            )
            fits[board.name] = fit(mine, expected, {f: scaled(board, rates) for f, rates in like.fold_rates.items()})
        found.append(_model(board, fits[board.name]))
    return found, {name: fitted.held_out for name, fitted in fits.items()}


def _model(board: Board, fitted: FitResult) -> MarchModel:
    families = {u.row.family for u in fitted.held_out}
    error = family_error("all", fitted.held_out)
    return MarchModel(
        march=board.march,
        board=board.name,
        array=board.array,
        rates=_rounded(fitted.rates),
        spread=_rounded(fitted.spread),
        residual=round(fitted.residual, 4),
        families=fitted.families(),
        basis=f"fitted to {error.rows} published {board.name} latencies of {len(families)} model families; a family "
        f"left out is predicted with a median error of {100 * error.median:.0f} %",
        sources=SOURCES | {"expected": board.why},
    )


def _scaled_model(
    board: Board, rates: dict[Term, float], spread: dict[Term, float], off: Sequence[float]
) -> MarchModel:
    """Return a model without figures of its own: X5's by ratios, as uncertain as that was on the other boards."""
    import numpy as np

    typical = exp(float(np.median(off))) - 1
    return MarchModel(
        march=board.march,
        board=board.name,
        array=board.array,
        rates=_rounded(rates),
        spread=_rounded(spread),
        residual=round(robust_deviation(off), 4),
        families=(),
        basis=f"no {board.name} latency is published: X5's rates by ratios of the data sheets, which were off by "
        f"{100 * typical:.0f} % (median) on the other boards",
        sources=SOURCES | {"expected": board.why},
    )


def _rounded(values: dict[Term, float]) -> dict[Term, float]:
    return {t: float(f"{v:.4g}") for t, v in values.items()}


def as_yaml(model: MarchModel) -> str:
    """Return the file of a model."""
    head = "# Written by `python -m benchmarks.fit_latency` (docs/explanation/latency-model.md), for predictions.\n"
    return head + str(yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, width=118, allow_unicode=True))


def table(unseen: dict[str, tuple[HeldOutPrediction, ...]]) -> str:
    """Return the errors by board and family, as Markdown."""
    lines = ["| board | family | rows | median error | p90 | in the interval |", "|---|---|---|---|---|---|"]
    for board, found in unseen.items():
        names = sorted({u.row.family for u in found})
        kinds = [(n, [u for u in found if u.row.family == n]) for n in names]
        for name, mine in [*kinds, ("**all**", list(found))]:
            e = family_error(name, mine)
            lines.append(f"| {board} | {name} | {e.rows} | {e.median:.1%} | {e.p90:.1%} | {e.covered} of {e.rows} |")
    return "\n".join(lines)


def kinds_apart(rows: Sequence[Published], counts: Counts) -> str:
    """Say how the X5's two kinds of networks are predicted by each other alone: detectors are one family here."""
    mine = rows_of(rows, counts, BOARDS[0])
    told = []
    for kind, other in (("YOLO", "the classifiers"), ("", "YOLO")):
        left = [replace(r, family="left out") for r in mine if r.family.startswith("YOLO") is bool(kind)]
        found = fit([*left, *(r for r in mine if r.family.startswith("YOLO") is not bool(kind))], EXPECTED)
        e = family_error("", [u for u in found.held_out if u.row.family == "left out"])
        told.append(f"{kind or 'classifiers'} ({e.rows} rows) by {other}: median {e.median:.1%}, p90 {e.p90:.1%}")
    return f"RDK X5, one kind of network by the other alone: {'; '.join(told)}."


def main() -> int:
    """Run from the command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("csv", type=Path, help="published_latency_train.csv")
    parse.add_argument("--counted", action="store_true", help="read benchmarks/latency_counts.json")
    parse.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file would change")
    parse.add_argument("--rows", action="store_true", help="also every row")
    args = parse.parse_args()
    if not args.csv.is_file():
        print(f"skipped: there is no {args.csv}; the marches' files stay as they were fitted", file=sys.stderr)
        return 0
    rows, without = published(args.csv)
    counts = read_counts() if args.counted else count(rows)
    found, unseen = models(rows, counts)
    files = {MARCHES / f"{m.march}.yaml": as_yaml(m) for m in found}
    files[COUNTS] = json.dumps(counts, indent=1, sort_keys=True) + "\n"
    changed = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    for path in [] if args.check else changed:
        path.write_text(files[path])
    print(table(unseen))
    print(f"\n{kinds_apart(rows, counts)}")
    _say_rows(rows, without, counts, unseen, args.rows)
    every = family_error("all", [u for found in unseen.values() for u in found])
    print(f"\nall boards: median {every.median:.1%}, aim {AIM:.0%}: {'met' if every.median <= AIM else 'not met'}")
    if args.check and changed:
        print(f"would change: {', '.join(path.name for path in changed)}", file=sys.stderr)
    return 1 if args.check and changed else 0


def _say_rows(
    rows: Sequence[Published],
    without: Counter[str],
    counts: Counts,
    unseen: dict[str, tuple[HeldOutPrediction, ...]],
    each: bool,
) -> None:
    used = [r for r in rows if r.key in counts]
    left = [f"{r.model} ({r.board})" for r in rows if r not in used]
    print(f"\n{len(used)} rows used, each as a graph. No graph here: {', '.join(left)}.")
    print(f"No single-thread latency published: {', '.join(f'{b} {n}' for b, n in without.items())}.")
    for board, found in unseen.items() if each else ():
        for u in found:
            interval = f"{u.predicted_ms:8.2f} ({u.low_ms:.2f} to {u.high_ms:.2f})"
            print(f"{board:10} {u.row.model:26} published {u.row.published_ms:8.2f}, predicted unseen {interval}")


if __name__ == "__main__":
    sys.exit(main())
