"""The verb estimate: how long a network is predicted to take on a board, before any compiler or board is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.registry import backend_names
from bpudeploy.cli import render, render_estimate
from bpudeploy.cli.inspect import image_size_in_range, targets_named
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.spec.load import is_file, list_targets, load_recipe, load_target
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import QuantizeSpec
from bpudeploy.spec.target import March, Target

if TYPE_CHECKING:
    from bpudeploy.inspection import Subject
    from bpudeploy.predict.prediction import Prediction


def estimate(model: str, named: Sequence[str] | None, image_size: int | None, top: int, as_json: bool) -> int:
    """Predict a network's latency on one or several targets, in both of its forms."""
    from bpudeploy.inspection import subjects

    image_size_in_range(image_size)
    if top < 0:
        raise UsageError(f"--top {top} is below 0", hint="0 shows no node")
    targets = targets_named(list(named) if named is not None else None)
    for target in targets:
        _has_model(target)
    if not targets and not is_file(model):
        raise UsageError("on which target?", hint=f"add --target NAME: {', '.join(_predictable())}")
    found: list[Prediction] = []
    originals = subjects(model, original=True, image_size=image_size)
    rewritten = subjects(model, original=False, image_size=image_size)
    for (before, own), (after, _), int16 in zip(originals, rewritten, _int16(model), strict=True):
        found += [predicted_on(target, before, after, int16) for target in targets or _own(own)]
    if as_json:
        render.show_json([one.model_dump(mode="json") for one in found])
    else:
        render_estimate.show(found, top)
    return ExitCode.OK


def _own(target: Target | None) -> tuple[Target, ...]:
    """Return the target that a recipe names."""
    assert target is not None  # a name without a recipe was asked for a target
    _has_model(target)
    return (target,)


def _int16(model: str) -> list[tuple[str, ...]]:
    """Return which tensors each recipe wants in int16; the default where there is no recipe."""
    if not is_file(model):
        return [QuantizeSpec().int16]
    return [resolved.recipe.quantize.int16 for resolved in load_recipe(Path(model), (), backend_names, to_look=True)]


def predicted_on(target: Target, before: Subject, after: Subject, int16: Sequence[str]) -> Prediction:
    """Predict the latency of a network, in both of its forms, on a target that has a model.

    Args:
        int16: a recipe's ``quantize.int16``.
    """
    from bpudeploy.predict.march import march_model
    from bpudeploy.predict.prediction import predict
    from bpudeploy.predict.workload import Workload, count_workload
    from bpudeploy.quantize.taps import find_quantization_points

    model = march_model(target.march)

    def count(of: Subject) -> Workload:
        return count_workload(of.model, target.march, model.array, of.constants, of.form, trained=of.trained)

    work = count(after)
    on_cpu = [n.name for n in work.nodes if not n.on_bpu]
    points = find_quantization_points(after.model, target.precision, on_cpu, int16)
    promoted = {product for point in points if point.precision is Precision.INT16 for product in point.products}
    return predict(after.name, after.origin, target, model, work, count(before), promoted)


def _has_model(target: Target) -> None:
    """Refuse a target whose latency cannot be predicted."""
    from bpudeploy.predict.march import modelled_marches

    if target.march in modelled_marches():
        return
    where = f"add --target NAME: {', '.join(_predictable())}"
    if target.march is March.CPU:
        raise UsageError(
            f"target {target.name} has no BPU: there is nothing to predict",
            hint=f"`bpudeploy run` measures there; {where}",
        )
    raise UsageError(f"no latency model of {target.march}, the march of {target.name}", hint=where)


def _predictable() -> list[str]:
    from bpudeploy.predict.march import modelled_marches

    known = modelled_marches()
    return [name for name in sorted(list_targets(Path())) if load_target(name, Path())[0].march in known]
