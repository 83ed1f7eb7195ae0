"""One function a verb: parsed arguments to calls of the rooms, and what they return to the renderer."""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli import render
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.spec.load import Resolved, list_targets, load_recipe, load_target, remote_sources
from bpudeploy.store.objects import default_root


def _store(args: Namespace) -> Path:
    root: Path = getattr(args, "store", None) or default_root()
    return root


def _recipes(args: Namespace, *, to_look: bool = False) -> tuple[Resolved, ...]:
    return load_recipe(args.recipe, args.sets, backend_names, to_look=to_look)


def run(args: Namespace) -> int:
    """Build, push, measure; with ``--until`` build only."""
    if args.dry_run:
        return _plan(args, _recipes(args))
    from bpudeploy.cli.run import run as run_recipes

    return run_recipes(_recipes(args), _store(args), args)


def plan(args: Namespace) -> int:
    """Say what a run would do, and what it would lack."""
    return _plan(args, _recipes(args, to_look=True))


def _plan(args: Namespace, recipes: tuple[Resolved, ...]) -> int:
    from bpudeploy.plan import pipeline
    from bpudeploy.plan.look import look

    for resolved in recipes:
        chosen = pipeline.plan_until(resolved, load_backend(resolved.target.backend), args.until)
        render.show_plan(resolved, look(chosen, _store(args), args.force), args.until is None, args.json)
    return ExitCode.OK


def explain(args: Namespace) -> int:
    """Say why the chosen steps are what they are, with every part of their keys."""
    from bpudeploy.plan import pipeline
    from bpudeploy.plan.look import look

    for resolved in _recipes(args):
        whole = pipeline.plan(resolved, load_backend(resolved.target.backend))
        wanted = whole.select([args.step])
        render.show_explanation([o for o in look(whole, _store(args)) if o.step in wanted], args.json)
    return ExitCode.OK


def validate(args: Namespace) -> int:
    """Load every recipe; the first that is wrong raises with all of its errors."""
    for path in args.recipes:
        for resolved in load_recipe(path, args.sets, backend_names, to_look=True):
            render.show_valid(path, resolved, args.json)
    return ExitCode.OK


def pin(args: Namespace) -> int:
    """Fetch each remote source once and print the digest that a recipe should pin."""
    from bpudeploy.digest import digest_file
    from bpudeploy.stage import Work
    from bpudeploy.stages.download import DownloadOptions, download

    for field, source in remote_sources(args.recipe, args.sets):
        with tempfile.TemporaryDirectory() as folder, render.Live(args.json) as live:
            path = download(Work(Path(folder), live.draw), DownloadOptions(source, None), field)
            digest = digest_file(path)
        render.show_pin(field, digest, args.json)
    return ExitCode.OK


def fit_head(args: Namespace) -> int:
    """Fit a head on everything outside evaluation and write it beside the recipe."""
    from bpudeploy.plan import pipeline
    from bpudeploy.run.runner import run as run_plan

    if args.l2 < 0:
        raise UsageError(f"--l2 {args.l2:g} is below 0", hint="give a weight of 0 or more")
    for resolved in _recipes(args):
        with render.Live(args.json) as live:
            result = run_plan(pipeline.plan_head(resolved, args.l2), _store(args), live.draw)
        head = result.artifact(pipeline.HEAD)
        out = args.out or args.recipe.with_name(f"{resolved.recipe.name}.safetensors")
        beside = out.with_name(f".{out.name}.new")
        try:
            shutil.copyfile(head.path, beside)
            beside.replace(out)
        except OSError as error:
            raise UsageError(f"cannot write {out}: {error.strerror}", hint="name another --out") from error
        render.show_head(out, head.digest, args.json)
    return ExitCode.OK


def schema(args: Namespace) -> int:
    """Print a JSON Schema."""
    from bpudeploy.spec.schema import fleet_schema, recipe_schema, suite_schema, target_schema

    made = {"recipe": recipe_schema, "target": target_schema, "fleet": fleet_schema, "suite": suite_schema}[args.what]
    render.show_json(made(), indent=2)
    return ExitCode.OK


def targets(args: Namespace) -> int:
    """List targets: built in, and those in ./targets."""
    found = [load_target(name, Path())[0] for name in sorted(list_targets(Path()))]
    render.show_targets(found, backend_names(), args.json)
    return ExitCode.OK


def backends(args: Namespace) -> int:
    """List the installed backends with their tools."""
    render.show_backends([load_backend(name) for name in backend_names()], args.json)
    return ExitCode.OK


def cache(args: Namespace) -> int:
    """List, collect or verify the store."""
    from bpudeploy.store.gc import collect, usage, verify

    root = _store(args)
    if args.what == "ls":
        render.show_usage(root, usage(root), args.json)
        return ExitCode.OK
    if args.what == "gc":
        collected = collect(root, older_than_days=args.older_than, dry_run=args.dry_run)
        render.show_collected(collected, args.dry_run, args.json)
        return ExitCode.OK
    count, damaged = verify(root)
    render.show_verified(count, damaged, args.json)
    return ExitCode.STAGE if damaged else ExitCode.OK


def report(args: Namespace) -> int:
    """Draw a finished run again from its summary.json; with no run, all that was measured."""
    if args.run is None:
        from bpudeploy.cli.bench import history

        return history(args)
    if (args.run / "night.json").is_file():
        from bpudeploy.cli.nightly import report as report_night

        return report_night(args.run, args)
    from bpudeploy.cli.run import report as report_run

    return report_run(args)


def bench(args: Namespace) -> int:
    """Measure a release on a board."""
    from bpudeploy.cli.bench import bench as run_bench

    return run_bench(args, _store(args))


def compare(args: Namespace) -> int:
    """Hold one release against another."""
    from bpudeploy.cli.bench import compare as run_compare

    return run_compare(args)


def fleet(args: Namespace) -> int:
    """Roll a release out to many boards, or look at that."""
    from bpudeploy.cli.fleet import fleet as run_fleet

    return run_fleet(args, _store(args))


def nightly(args: Namespace) -> int:
    """Run a suite."""
    from bpudeploy.cli.nightly import nightly as run_nightly

    return run_nightly(args, _store(args))


def baseline(args: Namespace) -> int:
    """Show or pin what nights are held against."""
    from bpudeploy.cli.nightly import baseline as run_baseline

    return run_baseline(args)


def bisect(args: Namespace) -> int:
    """Search what made a metric worse."""
    from bpudeploy.cli.bisect import bisect as run_bisect

    return run_bisect(args, _store(args))


def inspect(args: Namespace) -> int:
    """Say where each operator would run."""
    from bpudeploy.cli.inspect import inspect as run_inspect

    return run_inspect(args)


def estimate(args: Namespace) -> int:
    """Predict a latency."""
    from bpudeploy.cli.estimate import estimate as run_estimate

    return run_estimate(args.model, args.target, args.image_size, args.top, args.json)


def precision(args: Namespace) -> int:
    """Write the precisions of a quantized model for a vendor's compiler."""
    from bpudeploy.cli.precision import precision as run_precision

    return run_precision(args.recipe, args.sets, args.out, _store(args), args.json)


def sensitivity(args: Namespace) -> int:
    """Rank what int8 hurts."""
    from bpudeploy.cli.sensitivity import sensitivity as run_sensitivity

    return run_sensitivity(args.recipe, args.sets, args.images, _store(args), args.json)


def keys(args: Namespace) -> int:
    """Make, show or install the signing key."""
    from bpudeploy.cli.keys import keys as run_keys

    return run_keys(args)


def rollback(args: Namespace) -> int:
    """Go back to a board's previous release."""
    from bpudeploy.cli.keys import rollback as run_rollback

    return run_rollback(args)


def boards(args: Namespace) -> int:
    """Look at a board, trust it, or go there."""
    from bpudeploy.cli.boards import boards as run_boards

    return run_boards(args)


def toolchain(args: Namespace) -> int:
    """Install the vendor's compiler, show it or remove it."""
    from bpudeploy.cli.toolchain import toolchain as run_toolchain

    return run_toolchain(args)


VERBS: dict[str, Callable[[Namespace], int]] = {
    "run": run,
    "plan": plan,
    "explain": explain,
    "validate": validate,
    "pin": pin,
    "fit-head": fit_head,
    "schema": schema,
    "targets": targets,
    "backends": backends,
    "toolchain": toolchain,
    "cache": cache,
    "bench": bench,
    "compare": compare,
    "report": report,
    "nightly": nightly,
    "baseline": baseline,
    "bisect": bisect,
    "inspect": inspect,
    "estimate": estimate,
    "precision": precision,
    "sensitivity": sensitivity,
    "boards": boards,
    "fleet": fleet,
    "keys": keys,
    "rollback": rollback,
}
