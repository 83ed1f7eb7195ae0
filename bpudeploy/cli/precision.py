"""The verb precision: how each tensor is held, in files that a vendor's compiler takes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli import render
from bpudeploy.cli.promise import repair_of
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.spec.load import Resolved, load_recipe
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.target import March
from bpudeploy.stage import Artifact

_UNTRIED = "hb_compile (S100) has not read such files yet; hb_mapper has"


@dataclass(frozen=True)
class _Told:
    """What a march's compiler can be told: file name to text, and what there is to say about it."""

    files: dict[str, str]
    notes: tuple[str, ...]


def precision(recipe: Path, sets: Sequence[str], out: Path, store: Path, as_json: bool) -> int:
    """Build up to the quantized model and write its precisions; each recipe of a matrix has a folder of its own."""
    from bpudeploy.plan import pipeline
    from bpudeploy.run.runner import run

    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder", hint="name another --out")
    code, recipes = ExitCode.OK, load_recipe(recipe, sets, backend_names)
    for resolved in recipes:
        plan = pipeline.plan(resolved, load_backend(resolved.target.backend))
        prepared, quantized = pipeline.final_quantized([step.name for step in plan.steps])
        with render.Live(as_json) as live:
            result = run(plan.upto(quantized.step), store, live.draw)
        graph, model = (result.artifact(ref.step, ref.index) for ref in (prepared, quantized))
        told = _tell(model.path, graph, resolved.target.march)
        found = repair_of(result)
        broken = () if found is None or found.holds else (render.in_a_line(found),)
        folder = out if len(recipes) == 1 else out / resolved.recipe.name
        _show(resolved, graph, _write(folder, told.files), (*told.notes, *broken), as_json)
        code = ExitCode.CHECK if broken else code
    return code


def _tell(path: Path, graph: Artifact, march: March) -> _Told:
    import onnx

    from bpudeploy.conformance.placement import cpu_only_nodes
    from bpudeploy.quantize import vendor

    model = onnx.load(path)
    files = {"scales.json": vendor.scale_file(model).model_dump_json() + "\n"}
    if march is March.CPU:
        return _Told(files, ("a CPU has no vendor's compiler: scales only",))
    on_cpu = cpu_only_nodes(onnx.load(graph.path), march)
    of = f"Node names are those of the float graph with sha256 {graph.digest}."
    if march in vendor.HB_MAPPER:
        info = vendor.node_info(model, march, on_cpu)
        files["node_info.yaml"] = _yaml(f"Goes under model_parameters of hb_mapper, {march}. {of}", {"node_info": info})
    elif march in vendor.HB_COMPILE:
        files["quant_config.json"] = json.dumps(vendor.quant_config(model, march, on_cpu), indent=2) + "\n"
    else:
        where = vendor.run_on(model, march, on_cpu)
        if where:
            files["run_on.yaml"] = _yaml(f"Goes under calibration_parameters of hb_mapper, {march}. {of}", where)
    nodes = vendor.node_precisions(model, on_cpu)
    wide = [n.op for n in nodes if not n.in_float and Precision.INT16 in (*n.inputs.values(), n.output)]
    bare = ("bernoulli2 has no node_info: int8 is all that it computes in",) if march is March.BERNOULLI2 else ()
    return _Told(files, (*bare, *_not_listed(wide, march), _UNTRIED))


def _not_listed(ops: Iterable[str], march: March) -> Iterable[str]:
    """Say which operators are asked for int16 that the vendor's list has in int8 only."""
    from bpudeploy.conformance.table import op_table

    table = op_table(march)
    for op, count in Counter(ops).items():
        fact = table.ops.get(op)
        if fact is not None and Precision.INT16 not in fact.dtypes:
            told = f"{count} {op} asked for in int16, which {table.board}'s operator list has not"
            yield f"{told}: the tool says so and falls back to int8"


def _yaml(comment: str, section: dict[str, dict[str, dict[str, str]]] | dict[str, str]) -> str:
    """Return the keys of a section, indented as they stand in it; each value is JSON, which YAML is too."""
    lines = [f"# {comment}"]
    for key, value in section.items():
        if isinstance(value, str) or not value:
            lines.append(f"  {key}: {json.dumps(value)}")
            continue
        lines.append(f"  {key}:")
        lines += [f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items()]
    return "\n".join(lines) + "\n"


def _write(folder: Path, files: dict[str, str]) -> list[Path]:
    """Write each file, or leave what was there as it was."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            beside = folder / f".{name}.new"
            beside.write_text(text)
            beside.replace(folder / name)
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}", hint="name another --out") from error
    return [folder / name for name in files]


def _show(resolved: Resolved, graph: Artifact, files: Collection[Path], notes: Collection[str], as_json: bool) -> None:
    march = resolved.target.march
    if as_json:
        render.show_json(
            {
                "recipe": resolved.recipe.name,
                "target": resolved.target.name,
                "march": march.value,
                "graph": {"file": str(graph.path), "sha256": graph.digest},
                "files": [str(path) for path in files],
                "notes": list(notes),
            }
        )
        return
    lines = [f"{resolved.recipe.name} for {resolved.target.name} ({march}): the float graph is {graph.path}"]
    lines += [f"  {path}" for path in files]
    lines += [f"  note: {note}" for note in notes]
    sys.stdout.write("\n".join(lines) + "\n")
