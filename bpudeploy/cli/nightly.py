"""nightly and baseline: measure a suite and say what got worse; show or pin what nights are held against."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli import render, render_nightly
from bpudeploy.cli.building import budget, shared_store
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.nightly.suite import LoadedSuite, load_suite

if TYPE_CHECKING:
    from bpudeploy.nightly.history import History
    from bpudeploy.nightly.night import Night
    from bpudeploy.results.store import Results


def nightly(args: Namespace, store: Path) -> int:
    """Run a suite; the exit code is the verdict."""
    from bpudeploy.nightly.outputs import write_outputs
    from bpudeploy.nightly.prepare import prepare
    from bpudeploy.nightly.run import Means, run_night
    from bpudeploy.results.store import open_results
    from bpudeploy.run.executors import open_executor

    loaded = load_suite(args.suite, backend_names).only(args.only)
    backends = {name: load_backend(name) for name in {job.resolved.target.backend for job in loaded.jobs}}
    prepared = prepare(loaded, backends, store)
    if args.dry_run:
        render_nightly.show_plan(prepared, args.json)
        return ExitCode.OK
    executor = open_executor(args.executor, store, budget(args, len(loaded.jobs)), shared_store(args))
    with open_results(args.results) as results:
        with render.Live(args.json) as live:
            night, directory = run_night(prepared, Means(store, executor, results, live.draw_of))
        write_outputs(night, _histories(loaded, night, results), directory)
    render_nightly.show_night(night, directory, args.json)
    return night.exit_code


def report(directory: Path, args: Namespace) -> int:
    """Draw a night again from its record, with its history from the store of results."""
    from bpudeploy.nightly.night import read_night
    from bpudeploy.nightly.outputs import write_outputs
    from bpudeploy.results.store import open_results

    night = read_night(directory)
    with open_results(args.results) as results:
        write_outputs(night, _histories(load_suite(Path(night.file), backend_names), night, results), directory)
    render_nightly.show_night(night, directory, args.json)
    return night.exit_code


def _histories(loaded: LoadedSuite, night: Night, results: Results) -> list[History]:
    """Return every job's history up to the night."""
    from bpudeploy.nightly.history import histories, nights_of
    from bpudeploy.results.store import Query

    found: list[History] = []
    for job in loaded.jobs:
        query = Query(recipe=job.resolved.recipe.name, target=job.resolved.target.name, with_samples=False)
        until = [m for m in results.find(query) if night.ended is None or m.made <= night.ended]
        found += histories(job.name, nights_of(until, night.suite), job.checks)
    return found


def baseline(args: Namespace) -> int:
    """Show or pin what nights are held against."""
    from bpudeploy.nightly.baseline import write_baseline
    from bpudeploy.nightly.pin import pins
    from bpudeploy.results.store import open_results

    if args.what == "update" and not args.why:
        raise UsageError("why?", hint='--why "what is accepted, and for what": the next reader will ask')
    if args.what == "show" and (args.why or args.dry_run):
        raise UsageError("--why and --dry-run are for update", hint="leave them out")
    loaded = load_suite(args.suite, backend_names).only(args.only)
    with open_results(args.results) as results:
        found = pins(loaded, results, args.why or "")
    if args.what == "show":
        render_nightly.show_baselines(found, args.json)
        return ExitCode.OK
    written = [one for one in found if one.after is not None]
    if not written:
        raise UsageError("none of these jobs has been measured", hint=f"`bpudeploy nightly {args.suite}` measures them")
    if not args.dry_run:
        for one in written:
            assert one.after is not None
            write_baseline(loaded.baselines, one.after)
    render_nightly.show_pins(found, loaded.baselines, args.dry_run, args.json)
    return ExitCode.OK
