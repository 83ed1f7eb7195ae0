"""The functions of the Python API, exported by ``import bpudeploy``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from bpudeploy.backends.registry import backend_names
from bpudeploy.deployment import build as build_release
from bpudeploy.deployment import deploy as deploy_recipe
from bpudeploy.deployment import destination
from bpudeploy.errors import UsageError
from bpudeploy.events import Event
from bpudeploy.planning import pipeline
from bpudeploy.planning.preview import PlannedStep, preview
from bpudeploy.planning.products import BINARY
from bpudeploy.release import Release
from bpudeploy.results.compare import AT_LEAST, Comparison
from bpudeploy.results.compare import compare as compare_measurements
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.summary import Summary
from bpudeploy.spec.load import LoadedRecipe, load_recipe
from bpudeploy.store.objects import default_root

__all__ = ["PlannedStep", "build", "compare", "deploy", "load", "plan"]

Emit = Callable[[Event], None]


def _ignore(_event: Event) -> None: ...


def load(path: str | Path, *sets: str) -> LoadedRecipe:
    """Load and check a recipe; its ``recipe`` and ``target`` are frozen values.

    Args:
        sets: ``FIELD=VALUE`` for each field to change, such as ``calibration.count=32``.

    Raises:
        SpecError: the file is not a valid recipe; it names file, line, field and the fix.
        UsageError: the file's matrix defines several recipes.
    """
    found = load_recipe(Path(path), sets, backend_names)
    if len(found) != 1:
        names = ", ".join(one.recipe.name for one in found)
        raise UsageError(f"{path} defines {len(found)} recipes: {names}", hint="choose one by changing its fields")
    return found[0]


def plan(
    recipe: LoadedRecipe, *, until: str | None = None, force: Sequence[str] = (), store: Path | None = None
) -> tuple[PlannedStep, ...]:
    """Return what a build would do: each step with its state (hit, miss or after another step) and the reason.

    Read-only.

    Args:
        until: the last step or stage, such as ``quantize``.
        force: steps that run even if they are cached.
        store: default: $BPUDEPLOY_STORE, or the user's cache.

    Raises:
        UsageError: there is no such step, or this machine cannot run ``until``.
    """
    return preview(pipeline.plan(recipe).until(until), store or default_root(), force)


def build(
    recipe: LoadedRecipe, *, force: Sequence[str] = (), store: Path | None = None, on_event: Emit = _ignore
) -> Release:
    """Build the binary for the recipe's target; steps in the store are not run again.

    The release is also kept in a new directory of ``.bpudeploy/runs``, where ``bpudeploy bench`` finds it.

    Args:
        on_event: called in this thread with each event.

    Raises:
        ToolMissing: the target's compiler is not installed.
        BpudeployError: a stage failed; the store stays valid.
    """
    steps = pipeline.plan(recipe).until(BINARY)
    return build_release(recipe, steps, store or default_root(), on_event, force).as_release()


def deploy(
    recipe: LoadedRecipe,
    *,
    board: str | None = None,
    key: Path | None = None,
    allow_downgrade: bool = False,
    force: Collection[str] = (),
    store: Path | None = None,
    on_event: Emit = _ignore,
) -> Summary:
    """Build a release, push it to a board, check and measure it; ``Summary.measurement`` has the results.

    Args:
        board: ``[USER@]HOST[:PORT]``; None for a target that starts its own board, such as ``local``.
        key: file of the signing key; None is the user's default.
        allow_downgrade: push even if the board has a later build of this recipe.

    Raises:
        UsageError: the board or the key is missing or wrong.
        BpudeployError: something failed; store and board stay valid.
    """
    steps = pipeline.plan(recipe).until(BINARY)
    place = destination(recipe.target, board, key, allow_downgrade)
    return deploy_recipe(recipe, steps, store or default_root(), place, on_event, force)


def compare(a: Measurement, b: Measurement, *, at_least: float = AT_LEAST) -> Comparison:
    """Compare B with A, measured on one board; ``Comparison.verdict`` is better, worse or cannot tell.

    Args:
        at_least: percent; smaller changes of latency are ignored.

    Raises:
        UsageError: they are of different boards or of different provenance.
    """
    return compare_measurements([a], [b], at_least=at_least)
