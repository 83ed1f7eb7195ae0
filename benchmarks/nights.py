"""Nights with a seeded regression on the embedded board, from the first good night to the commit that did it.

    python -m benchmarks.nights --folder /tmp/nights --good 12 --bad 5

A git repository gets a network of one's own (recipes/inspection_cnn.py and its trained weights) and a suite. After the
good nights the release is pinned; then come commits, two of which are bad: one looks at each image twice, which costs
time and hardly changes an answer; a later one mistypes a standard deviation, which costs accuracy and no time. The
nights follow each other at once, and are shorter than real ones. Told at the end: on which night each was found, by
which of the two verdicts, and the commits that bisect names. The pages are left in the folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUITE = """\
name: seeded
jobs:
  - recipe: inspection.yaml
    set: [benchmark.rounds=24, benchmark.min_frames=240, benchmark.min_seconds=0, benchmark.max_seconds=20,
      benchmark.precision=1, "benchmark.streams=[]"]
checks: {top1: 0.5, p50: 3, p99: null, size: 1, memory: 10, compile_time: null}
"""
ONCE = "self.classifier(self.features(x.mean(1, keepdim=True)))"
TWICE = f"({ONCE} + {ONCE.replace('x.mean', '0.98 * x.mean')}) / 2"


@dataclass(frozen=True)
class Commit:
    """A change of one file, and why."""

    why: str
    file: str
    before: str
    after: str


HARMLESS = Commit("say more of the class", "inspection_cnn.py", "two dense layers;", "two dense layers after them;")
SLOWER = Commit("two looks at an image: steadier answers", "inspection_cnn.py", ONCE, TWICE)
SEED = Commit("other calibration images", "inspection.yaml", "count: 64, seed: 1", "count: 64, seed: 2")
WORSE = Commit(
    "standard deviation as measured", "inspection.yaml", "std: [0.25, 0.25, 0.25]", "std: [0.025, 0.25, 0.25]"
)


def main() -> None:
    """Run the nights and say what was found when."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, required=True, help="made anew")
    options.add_argument("--good", type=int, default=12)
    options.add_argument("--bad", type=int, default=5)
    args = options.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    project = args.folder.resolve()
    good = begin(project)
    for number in range(args.good):
        night(project, f"good {number + 1}")
    run(project, "baseline", "update", "suite.yaml", "--why", "the first that was measured often enough")
    commit(project, HARMLESS)
    slower = commit(project, SLOWER)
    commit(project, SEED)
    for number in range(args.bad):
        night(project, f"slower {number + 1}")
    found = bisect(project, good, "HEAD", "p50")
    print(f"bisect p50: {'found' if found == [slower] else 'WRONG'} {found}, it was {slower}")
    between = git(project, "rev-parse", "HEAD")
    worse = commit(project, WORSE)
    night(project, "and less accurate")
    found = bisect(project, between, "HEAD", "top1")
    print(f"bisect top1: {'found' if found == [worse] else 'WRONG'} {found}, it was {worse}")
    print(f"{project / '.bpudeploy/nights/index.html'}")


def begin(project: Path) -> str:
    """Make the repository and return its first commit."""
    recipe = (ROOT / "recipes/inspection-cnn.yaml").read_text().replace("inspection-cnn.safetensors", "cnn.safetensors")
    (project / "inspection.yaml").write_text(recipe)
    shutil.copy(ROOT / "recipes/inspection_cnn.py", project / "inspection_cnn.py")
    shutil.copy(ROOT / "recipes/inspection-cnn.safetensors", project / "cnn.safetensors")
    (project / "suite.yaml").write_text(SUITE)
    (project / ".gitignore").write_text(".bpudeploy\n__pycache__\n")
    git(project, "init", "-q", "-b", "main")
    return save(project, "the network and its suite")


def commit(project: Path, change: Commit) -> str:
    """Make a change and return its commit."""
    path = project / change.file
    text = path.read_text()
    assert change.before in text, change
    path.write_text(text.replace(change.before, change.after))
    return save(project, change.why)


def save(project: Path, why: str) -> str:
    """Commit all that there is."""
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", why)
    return git(project, "rev-parse", "HEAD")


def night(project: Path, name: str) -> None:
    """Run a night and print its verdict in a line."""
    began = time.monotonic()
    told = json.loads(run(project, "nightly", "suite.yaml", "--json").splitlines()[-1])
    (job,) = told["jobs"]
    bad = [
        f"{f['metric']} against {f['against']} {f['change']['value']:+.1f} "
        f"({f['change']['low']:+.1f} to {f['change']['high']:+.1f}), since {f['since'][:19]}"
        for f in job["findings"]
        if f["outcome"] == "regression"
    ]
    p50 = job["p50_ms"]
    print(
        f"{name:<18} {told['began'][:19]} exit {told['exit_code']}  {time.monotonic() - began:5.0f} s  "
        f"p50 {p50['value']:.2f} ({p50['low']:.2f} to {p50['high']:.2f})  top-1 {job['figures']['top1']:.2f}  "
        f"{', '.join(job['caveats']) or 'no caveat'}  {'; '.join(bad) or 'no regression'}",
        flush=True,
    )


def bisect(project: Path, good: str, bad: str, metric: str) -> list[str]:
    """Return the commits that bisect suspects."""
    said = run(project, "bisect", "inspection.yaml", "--good", good, "--bad", bad, "--metric", metric, "--json")
    suspects: list[str] = json.loads(said.splitlines()[-1])["suspects"]
    return suspects


def run(project: Path, *argv: str) -> str:
    """Run a verb; 4 is a verdict and no failure."""
    done = subprocess.run(
        [sys.executable, "-m", "bpudeploy", *argv], check=False, cwd=project, capture_output=True, text=True
    )
    if done.returncode not in (0, 4):
        sys.exit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def git(project: Path, *words: str) -> str:
    """Run git and return what it prints."""
    who = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    return subprocess.run(
        ["git", "-C", str(project), *who, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
