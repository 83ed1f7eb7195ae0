"""precision: the scale and precision of each tensor, in files that a vendor's compiler takes."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from bpudeploy.cli.arguments import add, recipes, store
from bpudeploy.cli.output import Output
from bpudeploy.cli.texts import repair_line
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.files import write_atomically
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import QUANTIZED, REPAIRED, Products
from bpudeploy.run.runner import run as run_plan
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.target import March
from bpudeploy.stage import Artifact
from bpudeploy.summarise import repair_report

EXAMPLE = """\
  bpudeploy precision recipes/quickstart.yaml --set target=rdk-x5 --out precisions

scales.json always; node_info.yaml for hb_mapper (X5, Ultra), quant_config.json for hb_compile (S100)."""
_UNTESTED = "hb_compile (S100) has not read such files yet; hb_mapper has"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json")
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="created if missing")
    add(parser, "--store")


def run(args: Namespace, out: Output) -> ExitCode:
    """Build up to the quantized model and write its precisions; each recipe of a matrix has its own folder."""
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"{args.out} is not a folder", hint="name another --out")
    code, found = ExitCode.OK, recipes(args)
    for resolved in found:
        plan = pipeline.plan(resolved)
        last = REPAIRED if any(step.name == REPAIRED for step in plan.steps) else QUANTIZED
        with out.live() as live:
            products = Products(run_plan(plan.upto(last), store(args), live.draw).artifacts)
        files, notes = _export(products, resolved.target.march)
        repair = repair_report(products)
        broken = () if repair is None or repair.holds else (repair_line(repair),)
        folder = args.out if len(found) == 1 else args.out / resolved.recipe.name
        _show(resolved, products.prepared, _write(folder, files), (*notes, *broken), out)
        code = ExitCode.CHECK if broken else code
    return code


def _export(products: Products, march: March) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return file name to text, and notes about them."""
    import onnx

    from bpudeploy.conformance.placement import cpu_only_nodes
    from bpudeploy.quantize import vendor

    graph, model = products.prepared, onnx.load(products.quantized.path)
    files = {"scales.json": vendor.scale_file(model).model_dump_json() + "\n"}
    if march is March.CPU or not march.is_known:
        return files, (f"{march} has no vendor compiler with a format of its own: scales only",)
    on_cpu = cpu_only_nodes(onnx.load(graph.path), march)
    of = f"Node names are those of the float graph with sha256 {graph.digest}."
    if march in vendor.HB_MAPPER:
        info = vendor.node_info(model, march, on_cpu)
        files["node_info.yaml"] = _yaml(f"Goes under model_parameters of hb_mapper, {march}. {of}", {"node_info": info})
    elif march in vendor.HB_COMPILE:
        files["quant_config.json"] = json.dumps(vendor.quant_config(model, march, on_cpu), indent=2) + "\n"
    else:
        where = vendor.run_on_options(model, march, on_cpu)
        if where:
            files["run_on.yaml"] = _yaml(f"Goes under calibration_parameters of hb_mapper, {march}. {of}", where)
    nodes = vendor.node_precisions(model, on_cpu)
    wide = [n.op for n in nodes if not n.in_float and Precision.INT16 in (*n.inputs.values(), n.output)]
    bare = ("bernoulli2 has no node_info: it computes in int8 only",) if march is March.BERNOULLI2 else ()
    return files, (*bare, *_not_listed(wide, march), _UNTESTED)


def _not_listed(ops: Iterable[str], march: March) -> Iterable[str]:
    """Say which operators are asked for int16 that the vendor's list has in int8 only."""
    from bpudeploy.conformance.table import op_table

    table = op_table(march)
    for op, count in Counter(ops).items():
        fact = table.ops.get(op)
        if fact is not None and Precision.INT16 not in fact.dtypes:
            yield (
                f"int16 is asked for {count} {op}, and {table.board}'s operator list has it in int8 only: "
                "the tool falls back to int8"
            )


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
    """Write each file whole, or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomically(folder / name, text)
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}", hint="name another --out") from error
    return [folder / name for name in files]


def _show(
    resolved: LoadedRecipe, graph: Artifact, files: Collection[Path], notes: Collection[str], out: Output
) -> None:
    march = resolved.target.march
    document = {
        "recipe": resolved.recipe.name,
        "target": resolved.target.name,
        "march": march.value,
        "graph": {"file": str(graph.path), "sha256": graph.digest},
        "files": [str(path) for path in files],
        "notes": list(notes),
    }
    lines = [f"{resolved.recipe.name} for {resolved.target.name} ({march}): the float graph is {graph.path}"]
    lines += [f"  {path}" for path in files]
    lines += [f"  note: {note}" for note in notes]
    out.show(document, lines)
