"""What a factor at the end of a GELU costs, by the vendor's own compiler: python -m benchmarks.gelu

Two MLPs (192, 768, 192 channels on 197 tokens) on each march, `makertbin --fast-perf`: as it is; with a per-channel
factor in its last multiplication, where scale migration puts it; with that factor in a multiplication of its own.
Milliseconds are the compiler's estimate, for the BPU only. Needs `bpudeploy toolchain install`.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx

from benchmarks.operators.build import NetworkBuilder, f32, positive
from bpudeploy.backends.horizon.fast import fast_profile
from bpudeploy.backends.horizon.toolchain.installed import installed
from bpudeploy.spec.compile_options import HbMapperOptions
from bpudeploy.spec.target import March

INNER, OUTER, TOKENS = 192, 768, (1, 192, 1, 197)
FORMS = ("as it is", "factor in the GELU", "factor behind it")


def network(form: str) -> onnx.ModelProto:
    """Return the two MLPs, residuals included."""
    net = NetworkBuilder(None, 11)
    x = net.feature(TOKENS)
    for i in range(2):
        a = net.conv(x, INNER, OUTER, f"fc1.{i}")
        erf = net.node("Erf", [net.node("Div", [a, net.const(f32(np.sqrt(2)))])])
        whole = net.node("Mul", [a, net.node("Add", [erf, net.const(f32(1))])])
        factor = positive(1, OUTER, 1, 1)
        half = net.const(factor / 2 if form == FORMS[1] else f32(0.5))
        whole = net.node("Mul", [whole, half])
        if form == FORMS[2]:
            whole = net.node("Mul", [whole, net.const(factor)])
        x = net.node("Add", [x, net.conv(whole, OUTER, INNER, f"fc2.{i}")])
    return net.finish([x], after=True)


def main() -> None:
    """Print a row for each march and form."""
    if installed() is None:
        sys.exit("bpudeploy toolchain install")
    print("| march | form | ms | over as it is | nodes on the CPU |\n|---|---|---|---|---|")
    for march in (March.BERNOULLI2, March.BAYES, March.BAYES_E):
        base = 0.0
        for form in FORMS:
            found = fast_profile(network(form), march, HbMapperOptions(minutes=10), lambda event: None)
            ms = found.total_us / 1000
            base = base or ms
            print(f"| {march} | {form} | {ms:.3f} | {ms / base:.2f} | {len(found.on_cpu)} |", flush=True)


if __name__ == "__main__":
    main()
