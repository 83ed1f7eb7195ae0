"""run: build, push and measure a recipe, or all those of a matrix, whose steps are built in parallel."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from bpudeploy.cli.arguments import add, budget, recipes, shared_store, store
from bpudeploy.cli.output import Output
from bpudeploy.cli.texts import gate_line, repair_line, summary_text
from bpudeploy.cli.verbs import plan as plan_verb
from bpudeploy.deployment import Destination, deploy, destination, require_classes
from bpudeploy.errors import BpudeployError, ExitCode
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY, Products
from bpudeploy.planning.step import Plan
from bpudeploy.quantize.findings import RepairReport
from bpudeploy.results.summary import Accuracy, Gate
from bpudeploy.run.runner import RunResult
from bpudeploy.run.runner import run as run_plan
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.stage import Kind

EXAMPLE = "  bpudeploy run recipes/quickstart.yaml --until quantize"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json", "--force", "--store")
    parser.add_argument("--until", metavar="STEP", help="stop after this stage or step; no board is touched")
    add(parser, "--board")
    parser.add_argument("--key", type=Path, metavar="FILE", help="signs the release (default: that of `keys new`)")
    parser.add_argument("--allow-downgrade", action="store_true", help="push even if the board has a later build")
    add(parser, "--executor", "--shared-store", "--jobs", "--memory")
    parser.add_argument("--dry-run", action="store_true", help="the same as plan")


def run(args: Namespace, out: Output) -> ExitCode:
    """Build, push, measure; with ``--until`` build only. One recipe that fails does not stop the others."""
    found = recipes(args)
    if args.dry_run:
        plan_verb.show(found, args, out)
        return ExitCode.OK
    plans = [pipeline.plan(resolved).until(args.until or BINARY) for resolved in found]
    places = [_destination(r, args) if args.until is None else None for r in found]
    elsewhere = args.executor is not None or shared_store(args) is not None
    together = _build_together(plans, args, out) if len(plans) > 1 or elsewhere else {}
    code = ExitCode.OK
    for resolved, plan, place in zip(found, plans, places, strict=True):
        built = together.get(plan.recipe)
        if isinstance(built, BpudeployError):
            out.error(built)
            code = max(code, built.exit_code)
        elif place is not None:
            with out.live() as live:
                force = () if together else args.force
                summary = deploy(resolved, plan, store(args), place, live.draw, force)
            out.show(summary, summary_text(summary))
            code = max(code, ExitCode.OK if summary.holds else ExitCode.CHECK)
        else:
            if built is None:
                with out.live() as live:
                    built = run_plan(plan, store(args), live.draw, args.force)
            code = max(code, _show_built(resolved, built, out))
    return code


def _destination(resolved: LoadedRecipe, args: Namespace) -> Destination:
    """Return where the release goes, before an hour of work finds that it cannot."""
    require_classes(resolved)
    return destination(resolved.target, args.board, args.key, args.allow_downgrade)


def _show_built(resolved: LoadedRecipe, built: RunResult, out: Output) -> ExitCode:
    """Print the artifacts of a run that stopped before the board, and whether ``check.max_drop`` holds."""
    from bpudeploy.summarise import binary_accuracy, drop_gate, repair_report

    products = Products(built.artifacts)
    repair, binary = repair_report(products), binary_accuracy(products)
    gate = drop_gate(resolved.recipe.check, binary) if binary is not None else None
    steps = {
        name: {
            "cache": "hit" if step.hit else "miss",
            "artifacts": {a.digest: str(a.path) for a in step.artifacts.values()},
        }
        for name, step in built.steps.items()
    }
    document = {
        "recipe": resolved.recipe.name,
        "steps": steps,
        "repair": repair.model_dump(mode="json") if repair is not None else None,
        "in_binary": binary.model_dump(mode="json") if binary is not None else None,
    }
    out.show(document, _built_text(resolved.recipe.name, built, repair, binary, gate))
    counted = gate or repair
    return ExitCode.OK if counted is None or counted.holds else ExitCode.CHECK


def _built_text(
    name: str, built: RunResult, repair: RepairReport | None, binary: Accuracy | None, gate: Gate | None
) -> Iterator[str]:
    made = list(list(built.steps.values())[-1].artifacts.values())
    last = next((a for a in reversed(made) if a.kind is not Kind.FINDINGS), made[-1])
    findings = f", its findings are {made[-1].path}" if made[-1] is not last else ""
    yield f"{name}: {len(built.ran)} of {len(built.steps)} steps ran; the last artifact is {last.path}{findings}"
    if repair is not None:
        yield f"  {repair_line(repair)}"
    if binary is not None:
        as_float = f"{binary.agreement:.1f} % of answers as float"
        yield f"  {binary.form}, simulated bit-exactly: top-1 {binary.text}, {as_float}"
    if gate is not None:
        yield f"  {gate_line(gate)}"


def _build_together(plans: Sequence[Plan], args: Namespace, out: Output) -> dict[str, RunResult | BpudeployError]:
    """Build every plan, several steps in parallel, and return each outcome by recipe.

    Raises:
        UsageError: --jobs, --memory, --executor or --shared-store is wrong.
    """
    from bpudeploy.run.executors import open_executor
    from bpudeploy.run.parallel import run_all

    root = store(args)
    executor = open_executor(args.executor, root, budget(args, len(plans)), shared_store(args))
    with out.live() as live:
        outcomes = run_all(plans, root, executor, live.draw_for, args.force)
    return {plan.recipe: outcome for plan, outcome in zip(plans, outcomes, strict=True)}
