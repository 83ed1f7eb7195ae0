"""The house: imports point one way, one door to each big library, files and functions stay small."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from bpudeploy.cli.main import main, parser

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bpudeploy"

WORDS = {"errors", "digest", "events", "files", "provenance"}
MAY_IMPORT = {
    "files": set(),
    "provenance": set(),
    "errors": set(),
    "extras": {"errors"},
    "digest": set(),
    "events": set(),
    "onnxmodel": set(),
    "spec": WORDS,
    "stage": WORDS,
    "release": WORDS | {"stage"},
    "signing": WORDS,
    "store": WORDS | {"stage"},
    "backends": WORDS | {"stage", "agent", "spec", "conformance", "quantize", "predict", "onnxmodel"},
    "boards": WORDS | {"spec"},
    "transfer": WORDS | {"boards"},
    "host": {"onnxmodel"},
    "agent": set(),
    "conformance": WORDS | {"spec", "onnxmodel"},
    "predict": WORDS | {"spec", "conformance"},
    "restructure": WORDS | {"spec", "host", "onnxmodel"},
    "layout": WORDS | {"spec", "restructure"},
    "approximate": WORDS | {"spec", "host", "restructure", "onnxmodel"},
    "quantize": WORDS | {"spec", "host", "onnxmodel"},
    "stages": WORDS
    | {"stage", "backends", "spec", "restructure", "layout", "approximate", "quantize", "host"}
    | {"conformance", "onnxmodel"},
    "planning": WORDS | {"stage", "stages", "backends", "spec", "store"},
    "run": WORDS | {"stage", "planning", "store"},
    "results": WORDS | {"conformance", "spec", "quantize", "predict"},
    "inspection": WORDS | {"spec", "backends", "stages", "restructure", "layout", "conformance", "onnxmodel"},
    "tuning": WORDS | {"spec", "backends", "layout"},
    "effects": WORDS | {"stage", "boards", "transfer", "results", "release", "signing", "spec"},
    "commits": set(),
    "releases": WORDS | {"stage", "release", "spec", "results"},
    "measure": WORDS
    | {"stage", "backends", "planning", "results", "effects", "release", "spec", "boards", "store", "releases"},
    "boardjob": WORDS | {"boards", "effects", "measure", "release", "results", "spec"},
    "summarise": WORDS
    | {"stages", "backends", "planning", "run", "results", "effects", "measure", "release", "restructure", "spec"}
    | {"conformance", "quantize", "predict"},
    "fleet": WORDS | {"spec", "boards", "effects", "results", "measure", "releases", "boardjob"},
    "deployment": WORDS
    | {"backends", "planning", "run", "results", "effects", "release", "signing", "spec", "boards", "summarise"}
    | {"measure", "releases", "commits", "boardjob"},
    "nightly": WORDS
    | {"backends", "planning", "run", "results", "store", "spec", "boards", "measure", "effects"}
    | {"releases", "deployment", "boardjob", "commits", "fleet"},
    "api": WORDS | {"backends", "deployment", "planning", "release", "results", "spec", "store"},
    "testing": WORDS | {"backends", "boards"},
    "cli": WORDS
    | {"stage", "stages", "backends", "planning", "run", "results", "store", "spec", "deployment", "boards", "boardjob"}
    | {"effects", "signing", "measure", "releases", "fleet", "nightly", "commits", "extras"}
    | {"conformance", "inspection", "tuning", "quantize", "predict", "summarise"},
}
MIGRATIONS = {
    f"results/migrations/{name}.py"
    for name in ("env", "upgrade", "versions/r0001_measurements", "versions/r0002_append_only")
}
VERBS = {str(path.relative_to(PACKAGE)) for path in (PACKAGE / "cli" / "verbs").glob("*.py")}
DOORS = {
    "timm": {"stages/timm_models.py"},
    "asyncssh": {
        f"boards/{name}.py"
        for name in ("ssh", "settings", "connect", "known_hosts", "trust", "shell", "embedded", "embedded_server")
    }
    | {"signing.py"},
    "yaml": {"spec/yamlmarks.py", "fleet/ansible.py"},
    "jinja2": {"results/drawing.py"},
    "matplotlib": {"results/drawing.py"},
    "cloudpickle": {"run/process.py"},
    "distributed": {"run/cluster.py", "run/cluster_task.py"},
    "dask": {"run/cluster.py"},
    "fsspec": {"store/shared.py"},
    "rich": {"cli/output.py", "cli/fleet_live.py"},
    "tqdm": {"cli/output.py"},
    "ruptures": {"nightly/change_points.py"},
    "sqlalchemy": {"results/store.py"} | MIGRATIONS,
    "alembic": MIGRATIONS,
    "argparse": {"cli/main.py", "cli/arguments.py", "cli/measuring.py", "effects/agent.py", "agent/main.py"} | VERBS,
}
PARENTS_OWN_BYTES = PACKAGE / "run" / "worker.py"  # what a farm sends its own processes, on a pipe of theirs
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = room(path)
    if own in ("__init__", "__main__"):
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("bpudeploy.")} - {own, "__version__"}
    assert used <= MAY_IMPORT[own], f"{own} must not import {used - MAY_IMPORT[own]}"


def test_the_allowed_arrows_have_no_circle() -> None:
    order: list[str] = []
    left = dict(MAY_IMPORT)
    while left:
        free = [name for name, needs in left.items() if needs <= set(order)]
        assert free, f"a circle among {sorted(left)}"
        order += free
        left = {name: needs for name, needs in left.items() if name not in free}


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_its_door(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE)) for path in SOURCES if library in {name.split(".")[0] for name in imports(path)}
    }
    assert users <= DOORS[library]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree), "a module says in one sentence what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 60, node.name


def test_nothing_unpickles_and_nothing_joins_a_shell_line() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert "shell=True" not in text and "os.system" not in text
        assert "pickle.load" not in text or path == PARENTS_OWN_BYTES
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call


def commands(path: Path) -> list[list[str]]:
    """Return every bpudeploy command in a page's indented or fenced blocks."""
    found = []
    for line in path.read_text().splitlines():
        match = re.match(r"^(?:    |\$ )?\$? ?(bpudeploy [a-z].*)$", line)
        if match:
            found.append(shlex.split(match[1], comments=True)[1:])
    return found


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_docs_commands_parse_and_name_files_that_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for argv in commands(page):
        args = parser().parse_args(argv)
        recipe = getattr(args, "recipe", None)
        if recipe is not None and recipe.parts[0] == "recipes":
            assert recipe.exists(), argv
            assert main(["validate", str(recipe)]) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_docs_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_docs_light_commands_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(tmp_path))
    ran = 0
    for page in PAGES:
        for argv in commands(page):
            light = argv[0] in ("plan", "validate", "schema", "targets", "backends") or argv[:2] == ["cache", "ls"]
            light = light or (argv[0] == "nightly" and "--dry-run" in argv)
            if light and not any(a.startswith("my") for a in argv):
                assert main(argv) == 0, argv
                ran += 1
    assert ran >= 5
    assert not list(tmp_path.iterdir()), "planning writes nothing"


@pytest.mark.parametrize("what", ["recipe", "target", "fleet"])
def test_the_pages_of_fields_are_up_to_date(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", what, "--markdown"]) == 0
    assert (ROOT / "docs" / "reference" / f"{what}.md").read_text() == capsys.readouterr().out


def test_published_files_name_no_private_place() -> None:
    for path in [*SOURCES, *PAGES, *ROOT.glob("recipes/*.yaml"), *ROOT.glob("targets/*.yaml")]:
        assert "/work/" not in path.read_text()
