"""run: build, push and measure one recipe, or all those of a matrix, whose steps are built beside each other."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from bpudeploy.backends.base import Backend
from bpudeploy.backends.registry import load_backend
from bpudeploy.cli import render
from bpudeploy.cli.building import budget, shared_store
from bpudeploy.cli.promise import repair_of
from bpudeploy.deploy import Orders, board_opener, deploy, policy_of
from bpudeploy.errors import BpudeployError, ExitCode, UsageError
from bpudeploy.plan import pipeline
from bpudeploy.plan.step import Plan
from bpudeploy.run.runner import RunResult
from bpudeploy.run.runner import run as run_plan
from bpudeploy.spec.load import Resolved
from bpudeploy.spec.recipe import Outputs


def run(recipes: Sequence[Resolved], root: Path, args: Namespace) -> int:
    """Build, push, measure; with ``--until`` build only. One recipe that fails does not stop the others."""
    backends = [load_backend(resolved.target.backend) for resolved in recipes]
    if args.until is None:
        for resolved, backend in zip(recipes, backends, strict=True):
            _require_board(resolved, backend, args)
    plans = [pipeline.plan_until(r, backend, args.until) for r, backend in zip(recipes, backends, strict=True)]
    elsewhere = args.executor is not None or shared_store(args) is not None
    together = _build_together(plans, root, args) if len(plans) > 1 or elsewhere else {}
    force = () if together else args.force
    code = ExitCode.OK
    for resolved, backend, plan in zip(recipes, backends, plans, strict=True):
        built = together.get(plan.recipe)
        if isinstance(built, BpudeployError):
            render.show_error(built, args.json)
            code = max(code, built.exit_code)
        elif args.until is None:
            code = max(code, _deploy(resolved, backend, plan, root, args, force))
        else:
            if built is None:
                with render.Live(args.json) as live:
                    built = run_plan(plan, root, live.draw, force)
            code = max(code, _show_built(resolved, built, args))
    return code


def _orders(args: Namespace) -> Orders:
    return Orders(args.key, args.allow_downgrade)


def _require_board(resolved: Resolved, backend: Backend, args: Namespace) -> None:
    """Say what would stop it at the board before an hour of work."""
    pipeline.require_compiler(resolved, backend)
    if resolved.recipe.model.outputs is Outputs.FEATURES:
        raise UsageError(
            f"{resolved.recipe.name} gives feature maps, and the benchmark measures a top-1",
            hint="`--until compile` builds all that there is to build",
        )
    board_opener(resolved.target, args.board)
    policy_of(resolved.target, _orders(args))


def _deploy(
    resolved: Resolved, backend: Backend, plan: Plan, root: Path, args: Namespace, force: Sequence[str]
) -> ExitCode:
    with render.Live(args.json) as live:
        summary = deploy(resolved, backend, plan, root, args.board, live.draw, force, _orders(args))
    render.show_summary(summary, args.json)
    return ExitCode.OK if summary.holds else ExitCode.CHECK


def _show_built(resolved: Resolved, built: RunResult, args: Namespace) -> ExitCode:
    repair = repair_of(built)
    render.show_built(resolved.recipe.name, built, repair, args.json)
    return ExitCode.CHECK if repair is not None and not repair.holds else ExitCode.OK


def report(args: Namespace) -> int:
    """Draw a finished run again from its summary.json."""
    from pydantic import ValidationError

    from bpudeploy.results.report import write_report
    from bpudeploy.results.summary import Summary

    path = args.run / "summary.json"
    try:
        summary = Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="name the directory of a finished run"
        ) from error
    except ValidationError as error:
        raise UsageError(f"{path} is not a summary of this version: {error}", hint="run the recipe again") from error
    write_report(summary, args.run / "report.html")
    render.show_summary(summary, args.json)
    return ExitCode.OK if summary.holds else ExitCode.CHECK


def _build_together(plans: Sequence[Plan], root: Path, args: Namespace) -> dict[str, RunResult | BpudeployError]:
    """Build every plan, several steps at once, and return by recipe what came of it.

    Raises:
        UsageError: --jobs or --memory is no number of processes or of GiB, or --executor or --shared-store is wrong.
    """
    from bpudeploy.run.executors import open_executor
    from bpudeploy.run.farm import run_all

    executor = open_executor(args.executor, root, budget(args, len(plans)), shared_store(args))
    with render.Live(args.json) as live:
        outcomes = run_all(plans, root, executor, live.draw_of, args.force)
    return {plan.recipe: outcome for plan, outcome in zip(plans, outcomes, strict=True)}
