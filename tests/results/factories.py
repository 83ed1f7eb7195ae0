"""Factories of seeded, plausible measurements and summaries."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bpudeploy import Measurement, Summary
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Form, Inspection
from bpudeploy.predict.estimate import Bound, Estimate, PrecisionMode
from bpudeploy.predict.march import Term
from bpudeploy.provenance import Provenance
from bpudeploy.quantize.agreement import Agreement, IntegerDifference, SumRange, TapAgreement
from bpudeploy.quantize.findings import (
    LayerDeviation,
    LayerReport,
    PromotionCandidate,
    RepairOutcome,
    RepairReport,
    RepairTrial,
)
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.latency import latency_of, mean_of
from bpudeploy.results.measurement import (
    Answers,
    BoardFacts,
    Caveat,
    Clock,
    Conditions,
    Interval,
    LayerCost,
    Round,
    Score,
    Subject,
    Throughput,
)
from bpudeploy.results.statistics import paired_drop, wilson
from bpudeploy.results.summary import Accuracy, Gate, Install, Quantization, Step
from bpudeploy.spec.precision import Precision, Rounding
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.target import March
from tests.conformance.graphs import graph

ROUNDS, FRAMES, IMAGES, CLASSES = 20, 30, 200, 10
_BEGAN = datetime(2026, 11, 28, 5, 0, tzinfo=UTC)


def subject(**changes: str) -> Subject:
    """Return a release of a ViT for an RDK X5."""
    made = {"recipe": "vit-tiny", "target": "rdk-x5", "march": "bayes-e", "backend": "hb_mapper"}
    return Subject(**{**made, "release": "f" * 64, "binary": "b" * 64, **changes})


def facts(**changes: Any) -> BoardFacts:
    """Return the facts of a board that does not report its CPU."""
    known: dict[str, Any] = {"hostname": "x5", "machine": "aarch64", "cpu": None, "cores": 8, "memory_mb": 3924}
    return BoardFacts(**{**known, "os": "Ubuntu 22.04", "python": "3.10.12", "board_id": "0x1234", **changes})


def rounds(
    seed: int = 0, p50: float = 5.0, count: int = ROUNDS, frames: int = FRAMES, caveats: Mapping[int, Caveat] = {}
) -> tuple[Round, ...]:
    """Return rounds of frames with a tail; levels differ between rounds, and those in ``caveats`` are slower."""
    rng = random.Random(seed)
    found, at = [], 1.0
    for i in range(count):
        level = p50 * rng.gauss(1, 0.01) * (1.25 if i in caveats else 1)
        ms = [
            level * (1 + rng.lognormvariate(-5, 1)) + (level * rng.random() if rng.random() < 0.01 else 0)
            for _ in range(frames)
        ]
        found.append(
            Round(
                index=i,
                place=i,
                started_s=at,
                load_seconds=0.2 + 0.02 * rng.random(),
                frames=frames,
                samples_ms=tuple(ms),
                hottest_c=55 + 15 * (1 - math.exp(-i / 6)),
                others_cores=0.03 * rng.random(),
                caveats=(caveats[i],) if i in caveats else (),
            )
        )
        at += sum(ms) / 1000 + 0.5
    return tuple(found)


def conditions(taken: tuple[Round, ...], seed: int = 0) -> tuple[Conditions, ...]:
    """Return three readings per round: two temperatures, a CPU clock and a BPU clock, slow in rounds with caveats."""
    rng = random.Random(seed)
    return tuple(
        Conditions(
            at_s=one.started_s + part * sum(one.samples_ms) / 2000,
            during=f"round {one.index}",
            temperatures_c={
                "cpu": (one.hottest_c or 50) - 3 + rng.random(),
                "bpu": (one.hottest_c or 50) + rng.random() / 2,
            },
            clocks_hz={
                "cpu policy0": Clock(cur=1.5e9, max=1.5e9),
                "bpu bpu0": Clock(cur=0.8e9 if one.caveats else 1e9, max=1e9),
            },
            bpu_busy={"bpu0": 97.0},
            governors={"cpu policy0": "performance", "bpu bpu0": "performance"},
            load_1min=0.4,
            others_cores=one.others_cores,
        )
        for one in taken
        for part in range(3)
    )


def layers(seed: int = 0, total_ms: float = 5.0, count: int = 60) -> tuple[LayerCost, ...]:
    """Return the time of layers on the BPU, of Softmax on the CPU, and of the runtime itself."""
    rng = random.Random(seed)
    ops = [("Conv", "bpu"), ("MatMul", "bpu"), ("Softmax", "cpu"), ("LayerNormalization", "bpu")]
    weights = [rng.expovariate(1) for _ in range(count)]
    made = [
        LayerCost(name=f"/blocks.{i // 5}/part.{i % 5}/{op}", op=op, where=where, ms=total_ms * weight / sum(weights))
        for i, weight in enumerate(weights)
        for op, where in (ops[i % len(ops)],)
    ]
    return (*made, LayerCost(name="copies", op=None, where="runtime", ms=0.3))


def answers(seed: int = 0, share: float = 0.8, images: int = IMAGES, classes: int = CLASSES) -> Answers:
    """Return answers of which about ``share`` are correct."""
    rng = random.Random(seed)
    labels = [rng.randrange(classes) for _ in range(images)]
    top = []
    for label in labels:
        others = rng.sample([c for c in range(classes) if c != label], min(4, classes - 1))
        at = 0 if rng.random() < share else rng.randrange(1, len(others) + 2)
        top.append(tuple([*others[:at], label, *others[at:]][:5]))
    return Answers(samples="a" * 64, labels=tuple(labels), top=tuple(top))


def score(given: Answers) -> Score:
    """Return the score of answers; 2 % of them differ from the host's."""
    n = len(given.labels)
    in_top5 = sum(label in top for label, top in zip(given.labels, given.top, strict=True))
    return Score(
        images=n,
        top1=wilson(sum(given.right), n),
        top5=wilson(in_top5, n) if len(given.top[0]) == 5 else None,
        as_host=wilson(n - n // 50, n),
    )


def measurement(
    *,
    seed: int = 0,
    p50: float = 5.0,
    share: float = 0.8,
    bad: Mapping[int, Caveat] = {},
    hours: float = 0,
    **changes: Any,
) -> Measurement:
    """Return a complete measurement of a board with a BPU.

    Args:
        p50: approximate median latency in ms.
        share: approximate accuracy.
        bad: caveats by index of the round.
        hours: time since the first measurement.
        changes: other fields of the measurement.
    """
    taken, given = rounds(seed, p50, caveats=bad), answers(seed, share)
    fps = [4 * 1000 / p50 / 2 * random.Random(seed + i).gauss(1, 0.01) for i in range(len(taken))]
    fields: dict[str, Any] = {
        "provenance": Provenance.MEASURED,
        "session": f"session-{seed}",
        "made": (_BEGAN + timedelta(hours=hours)).isoformat(),
        "subject": subject(),
        "board": "root@192.168.1.10",
        "board_id": "0x1234",
        "device": "BPU (bayes-e)",
        "runtime": "hobot_dnn 1.24.5",
        "facts": facts(),
        "method": BenchmarkSpec(),
        "latency": latency_of([one.samples_ms for one in taken]),
        "load_ms": mean_of([1000 * one.load_seconds for one in taken]),
        "rounds": taken,
        "throughput": (Throughput(streams=4, fps=mean_of(fps), rounds=tuple(fps)),),
        "conditions": conditions(taken, seed),
        "caveats": tuple(sorted(set(bad.values()))),
        "layers": layers(seed, p50),
        "score": score(given),
        "answers": given,
        "peak_memory_mb": 212.0,
        "versions": {"bpudeploy": "0.8.0", "onnx": "1.19"},
    }
    return Measurement(**(fields | changes))


def on_cpu(**changes: Any) -> Measurement:
    """Return a measurement of a machine without BPU, sensors and profiler."""
    plain: dict[str, Any] = {
        "subject": subject(target="local", march="cpu", backend="ort"),
        "board": "local",
        "board_id": "machine-7",
        "device": "CPU (onnxruntime)",
        "runtime": "onnxruntime 1.23",
        "facts": facts(hostname="h", machine="x86_64", cores=4, memory_mb=None, board_id=None),
        "conditions": (),
        "layers": (),
    }
    return measurement(**(plain | changes))


def simulated(**changes: Any) -> Measurement:
    """Return what the results store keeps of a run on the simulator: an accuracy without latencies."""
    nothing: dict[str, Any] = {"latency": None, "load_ms": None, "rounds": (), "throughput": (), "conditions": ()}
    nothing |= {"layers": (), "caveats": (), "peak_memory_mb": None, "provenance": Provenance.SIMULATED}
    nothing |= {"device": "the simulator of bayes-e", "board": "rdk-x5-sim", "board_id": "h"}
    return measurement(**(nothing | changes))


def predicted(low: float = 3.0, value: float = 4.0, high: float = 9.0, **changes: Any) -> Measurement:
    """Return what the results store keeps of a prediction."""
    fields: dict[str, Any] = {"provenance": Provenance.PREDICTED, "device": "RDK X5", "runtime": "fitted to 80 figures"}
    fields |= {"facts": None, "method": None, "score": None, "answers": None}
    return simulated(**(fields | {"predicted_ms": Interval(value=value, low=low, high=high)} | changes))


def estimate() -> Estimate:
    """Return the predicted latency of a simulated board."""
    return Estimate(
        march=March.BAYES_E,
        board="RDK X5",
        form=Form.RESTRUCTURED,
        width=PrecisionMode.RULES,
        predicted_ms=4.2,
        predicted_low_ms=3.0,
        predicted_high_ms=6.0,
        bound=Bound.MEMORY,
        by_bound_ms={Bound.COMPUTE: 1.0, Bound.MEMORY: 3.2},
        by_term_ms={Term.COMPUTE: 1.0, Term.ATTENTION: 3.2},
        nodes=(),
        segments=1,
        cpu_nodes=0,
        basis="fitted to 80 published latencies",
    )


def inspection() -> Inspection:
    """Return the placement of two operators."""
    model = graph([("Relu", ["x"], ["y"], {}), ("Neg", ["y"], ["z"], {})], {"x": (1, 4, 4, 4)})
    return Inspection(model="r", origin="a graph", target="rdk-x5", placement=placement(model, March.BAYES_E))


def quantization(repaired: bool = True) -> Quantization:
    """Return how a network was quantized; some names need escaping."""
    found = [
        LayerDeviation(node=f"<layer> {i}", op="Conv", index=i, inputs=(Precision.INT8,), sqnr_db=i / 2, cosine=0.9)
        for i in range(30)
    ]
    trials = [RepairTrial(promoted=n, drop=6.0 - 2 * n, slowdown=1.0 + n / 10) for n in (0, 1, 2, 3)]
    repair = RepairReport(
        outcome=RepairOutcome.REPAIRED,
        max_drop=1,
        max_slowdown=None,
        images=50,
        ranked=tuple(PromotionCandidate(tap=f"tap {i}", products=("p",), error=1, cost=0.1) for i in range(3)),
        trials=tuple(trials),
        promoted=("tap 0", "tap 1", "tap 2"),
        drop=0.0,
        slowdown=1.3,
    )
    return Quantization(
        levers=("mse thresholds", "biases corrected"),
        taps={Precision.INT8: 40, Precision.INT16: 3},
        layers=LayerReport(images=8, layers=tuple(found)),
        integers=Agreement(
            rounding=Rounding.HALF_EVEN,
            images=2,
            taps={
                f"<tap> {off}": TapAgreement(
                    precision=Precision.INT8,
                    made_by="Conv",
                    forced=IntegerDifference(elements=1000, differing=5, worst=off),
                    free=IntegerDifference(elements=1000, differing=50, worst=off),
                )
                for off in range(4)
            },
            outputs={},
            sums={"<wide product>": SumRange(elements=9, peak=2**31, overflows=1)},
        ),
        repair=repair if repaired else None,
    )


def summary(name: str = "r", lost: int = 0, **changes: Any) -> Summary:
    """Return a run on a machine without BPU that gets ``lost`` images wrong which float gets right."""
    rng = random.Random(1)
    right = [rng.random() < 0.8 for _ in range(50)]
    after = [False if i in [k for k, r in enumerate(right) if r][:lost] else r for i, r in enumerate(right)]
    forms = [
        Accuracy(
            form=form,
            where="host",
            top1=wilson(sum(got), 50),
            top5=wilson(49, 50),
            correct=sum(got),
            images=50,
            drop=None if form == "float" else paired_drop(right, got),
            agreement=None if form == "float" else 100.0,
            provenance=Provenance.MEASURED,
        )
        for form, got in (("float", right), ("int8", after), ("on the board", after))
    ]
    fields: dict[str, Any] = {
        "recipe": name,
        "target": "local",
        "backend": "ort",
        "started": "2026-11-24T00:00:00+00:00",
        "release": "f" * 64,
        "preprocess": "224x224",
        "warnings": ("<photo>.png: one colour",),
        "proof_difference": 1e-6,
        "proof_images": 50,
        "accuracy": tuple(forms),
        "quantization": quantization(),
        "measurement": on_cpu(),
        "install": Install(changed=True, bytes_sent=10, seconds=0.1),
        "self_check": SelfCheck(images=8, same=8, deviation=0.021),
        "steps": (Step(name="quantize", cache="miss", seconds=1, peak_mb=10, digests=("a" * 64, "b" * 64), bytes=10),),
        "gates": (Gate(name="max_drop", limit=1, value=2, unit="points", holds=False),),
        "sizes": {"binary": 10},
        "placement": inspection(),
        "versions": {"onnx": "1"},
        "run_directory": ".",
    }
    return Summary(**(fields | changes))
