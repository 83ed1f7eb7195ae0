"""How often a release is told apart from itself: A/A comparisons of real benchmarks on this machine's embedded board.

    python -m benchmarks.false_verdicts quickstart --runs 20

Run it where the release was built. Each comparison is a session of its own, through the real agent over SSH, loads and
warm-ups included. Nothing is left out, whatever else the machine does meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from bpudeploy import Comparison, Measurement
from bpudeploy.boards.embedded import open_embedded
from bpudeploy.measure import Candidate, candidate, measure
from bpudeploy.releases import find_release
from bpudeploy.results.compare import compare
from bpudeploy.results.summary import Verdict
from bpudeploy.store.objects import default_root


def twin(one: Candidate) -> Candidate:
    """Return the same binary under another name, and so another release."""
    manifest = replace(one.release.manifest, name=f"{one.release.manifest.name}-twin")
    return replace(one, release=replace(one.release, manifest=manifest))


def excludes_no_change(found: Comparison) -> bool:
    """Tell whether the interval of p50 excludes 0, however small the change."""
    interval = found.latency[0].interval
    return interval is not None and (interval.low > 0 or interval.high < 0)


def shown(made: list[Comparison], last: Measurement, seconds: float) -> str:
    """Return the counts so far."""
    n = len(made)
    changes = sorted(abs(one.latency[0].percent) for one in made)
    verdicts = Counter(one.verdict for one in made)
    false = verdicts[Verdict.WORSE] + verdicts[Verdict.BETTER]
    told = sum(map(excludes_no_change, made))
    return (
        f"{n} comparisons in {seconds:.0f} s: {false} false verdicts ({100 * false / n:.1f} %), "
        f"{told} intervals that exclude 0 ({100 * told / n:.1f} %); "
        f"|change| median {statistics.median(changes):.2f} %, largest {changes[-1]:.2f} %; "
        f"caveats now: {', '.join(last.caveats) or '-'}"
    )


def main() -> None:
    """Compare a release with itself so many times, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--frames", type=int, default=30, help="a round")
    args = parser.parse_args()
    known = find_release(args.release)
    one = candidate(known, default_root())
    method = known.built.method.model_copy(
        update={
            "rounds": args.rounds,
            "min_frames": args.rounds * args.frames,
            "min_seconds": 0.0,
            "precision": 100.0,
            "streams": (),
        }
    )
    made: list[Comparison] = []
    started = time.perf_counter()
    with open_embedded(Path(".bpudeploy/boards/aa").absolute(), name="aa") as board:
        for i in range(args.runs):
            a, b = measure(board, [one, twin(one)], method, lambda event: None)
            made.append(compare([a], [b]))
            if (i + 1) % max(1, args.runs // 20) == 0:
                print(shown(made, a, time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
