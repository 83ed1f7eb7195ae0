"""The verb inspect: which operator would run where, before any compiler has seen the model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from bpudeploy.cli import render_inspect
from bpudeploy.cli.render import Live
from bpudeploy.conformance.report import Inspection
from bpudeploy.errors import ExitCode, SpecError, UsageError
from bpudeploy.spec.load import is_file, list_targets, load_target
from bpudeploy.spec.target import Target

MIN_PIXELS, MAX_PIXELS = 16, 4096


def inspect(args: Namespace) -> int:
    """Show a model's placement on one or several targets."""
    image_size_in_range(args.image_size)
    targets = targets_named(args.target)
    if not targets and not is_file(args.model):
        raise UsageError("on which target?", hint=f"add --target NAME: {', '.join(sorted(list_targets(Path())))}")
    if args.html is not None and not args.html.parent.is_dir():
        raise UsageError(f"cannot write {args.html}: there is no folder {args.html.parent}", hint="name another --html")
    from bpudeploy.inspection import subjects

    found: list[Inspection] = []
    with Live(args.json) as live:
        emit = live.draw if args.with_compiler else None
        for subject, own in subjects(args.model, original=args.original, image_size=args.image_size):
            found += [subject.on(target, emit) for target in targets or ([own] if own is not None else [])]
    if args.html is not None:
        _write(args.html, found)
    render_inspect.show(found, every_node=args.all, as_json=args.json)
    if args.html is not None:
        render_inspect.show_file(args.html, as_json=args.json)
    return ExitCode.OK


def image_size_in_range(pixels: int | None) -> None:
    """Refuse an ``--image-size`` that no network takes."""
    if pixels is not None and not MIN_PIXELS <= pixels <= MAX_PIXELS:
        raise UsageError(f"--image-size {pixels} is out of range", hint=f"give {MIN_PIXELS} to {MAX_PIXELS} pixels")


def targets_named(named: list[str] | None) -> tuple[Target, ...]:
    """Return the targets of ``--target a,b``, each once, in the order given."""
    names = dict.fromkeys(name for text in named or () for name in text.split(",") if name)
    return tuple(target_named(name) for name in names)


def target_named(name: str) -> Target:
    """Return the target of that name, or in that file."""
    try:
        return load_target(name, Path())[0]
    except SpecError as error:
        if error.where is not None:
            raise
        raise UsageError(error.message, hint=error.hint) from error


def _write(path: Path, found: list[Inspection]) -> None:
    from bpudeploy.results.report import write_inspection

    try:
        write_inspection(found, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="name another --html file") from error
