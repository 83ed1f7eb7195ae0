"""The templates for CI and systemd, held to the schemas of GitHub and GitLab, an audit, and systemd's own verifier."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bpudeploy.errors import ExitCode
from bpudeploy.nightly.outputs import write_outputs
from tests.nightly import made

TEMPLATES = Path(__file__).parents[2] / "templates"
GITHUB, GITLAB, SYSTEMD = TEMPLATES / "github-actions.yml", TEMPLATES / "gitlab-ci.yml", TEMPLATES / "systemd"
UNIT = "bpudeploy-nightly"
BIN = Path(sys.executable).parent
PROGRAM = "/srv/bpudeploy/.venv/bin/bpudeploy"
WORST = 20
"""Tenths of systemd's exposure level, 100 the worst: it was 16 when it was written, with network and /proc open."""
Check = Callable[[Path], subprocess.CompletedProcess[str]]


def ran(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=120, check=False)


def of_github(path: Path) -> subprocess.CompletedProcess[str]:
    return ran(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def of_gitlab(path: Path) -> subprocess.CompletedProcess[str]:
    schema = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    return ran(BIN / "check-jsonschema", *schema, path)


def audited(path: Path) -> subprocess.CompletedProcess[str]:
    return ran(BIN / "zizmor", "--offline", "--no-progress", "--persona", "pedantic", path)


def verified(path: Path) -> subprocess.CompletedProcess[str]:
    return ran("systemd-analyze", "verify", "--man=no", path)


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def units(folder: Path, service: Callable[[str], str] = str, timer: Callable[[str], str] = str) -> Path:
    """Write both units, changed, with a program that is here; return the timer, which leads to the service."""
    program = shutil.which("true")
    assert program is not None
    for kind, changed in (("service", service), ("timer", timer)):
        text = changed((SYSTEMD / f"{UNIT}.{kind}").read_text())
        (folder / f"{UNIT}.{kind}").write_text(text.replace(PROGRAM, program))
    return folder / f"{UNIT}.timer"


def test_the_workflow_is_valid_and_an_audit_finds_nothing() -> None:
    for done in (of_github(GITHUB), audited(GITHUB)):
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_pipeline_is_valid() -> None:
    done = of_gitlab(GITLAB)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("check", "file", "was", "wrong"),
    [
        (of_github, GITHUB, "runs-on:", "run-on:"),
        (of_github, GITHUB, "contents: read", "contents: reed"),
        (of_github, GITHUB, '- cron: "', '- crom: "'),
        (of_github, GITHUB, "timeout-minutes: 600", "timeout-minutes: [600]"),
        (audited, GITHUB, "          persist-credentials: false\n", ""),
        (audited, GITHUB, '"$SUITE" ${ONLY:+--only "$ONLY"}', "${{ inputs.only }}"),
        (audited, GITHUB, "08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", "main"),
        (audited, GITHUB, "  contents: read", "  contents: write"),
        (of_gitlab, GITLAB, "when: always", "when: ever"),
        (of_gitlab, GITLAB, "junit: night", "junits: night"),
        (of_gitlab, GITLAB, "rules:\n    - if", "rules:\n    - iff"),
        (of_gitlab, GITLAB, "expire_in: 90 days", "expire_in: 90"),
    ],
)
def test_a_broken_template_is_found(check: Check, file: Path, was: str, wrong: str, tmp_path: Path) -> None:
    text = file.read_text()
    assert was in text
    broken = tmp_path / file.name
    broken.write_text(text.replace(was, wrong))
    assert check(broken).returncode != 0


@needs_systemd
def test_systemd_takes_both_units_without_a_word_and_the_service_is_shut_off(tmp_path: Path) -> None:
    done = verified(units(tmp_path))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = verified(tmp_path / f"{UNIT}.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    service = tmp_path / f"{UNIT}.service"
    done = ran("systemd-analyze", "security", "--offline=true", f"--threshold={WORST}", "--no-pager", service)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize(
    ("kind", "was", "wrong"),
    [
        ("service", "ProtectSystem=strict", "ProtectSystem=very"),
        ("service", "KillMode=mixed", "KillModes=mixed"),
        ("service", "ExecStart=", "ExecStart=bin/"),
        ("service", "TimeoutStartSec=10h", "TimeoutStartSec=10 suns"),
        ("timer", "OnCalendar=*-*-* 21:00:00", "OnCalendar=*-*-* 25:00:00"),
        ("timer", "Persistent=true", "Persistant=true"),
    ],
)
def test_a_broken_unit_is_found(kind: str, was: str, wrong: str, tmp_path: Path) -> None:
    assert was in (SYSTEMD / f"{UNIT}.{kind}").read_text()
    changed = {kind: lambda text: text.replace(was, wrong)}
    units(tmp_path, **changed)
    done = verified(tmp_path / f"{UNIT}.{kind}")
    assert done.returncode != 0 or done.stdout + done.stderr


@needs_systemd
def test_an_open_service_is_found(tmp_path: Path) -> None:
    units(tmp_path, lambda text: re.sub("(?m)^(Protect|Capability|Restrict|System).*\n", "", text))
    service = tmp_path / f"{UNIT}.service"
    assert ran("systemd-analyze", "security", "--offline=true", f"--threshold={WORST}", service).returncode != 0


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_knows_but_the_label(tmp_path: Path) -> None:
    config = tmp_path / "actionlint.yaml"
    config.write_text("self-hosted-runner: {labels: [bpudeploy-boards]}\n")
    done = ran("actionlint", "-config-file", config, GITHUB)
    assert done.returncode == 0, done.stdout


def test_every_template_names_the_files_that_a_night_writes_and_the_exit_codes(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    write_outputs(made.troubled(), [], folder)
    written = {path.name for path in folder.iterdir()} | {"night.json"}
    texts = [GITHUB.read_text(), GITLAB.read_text(), (SYSTEMD / f"{UNIT}.service").read_text()]
    for text in texts:
        named = set(re.findall(r"night(?:s/latest)?/(\w+\.\w+)", text)) - {"suite.yaml"}
        assert named and named <= written | {"pull_request.yaml"}
        for code, meaning in (
            (ExitCode.CHECK, "regression"), (ExitCode.STAGE, "a build failed"), (ExitCode.BOARD, "no board")
        ):  # fmt: skip
            assert f"{int(code)} {meaning}" in text


def steps(text: str) -> list[str]:
    """Return the shell scripts of the workflow, those of more than one line."""
    return [re.sub("(?m)^ {10}", "", found) for found in re.findall(r"run: \|\n((?: {10}.*\n)+)", text)]


def test_the_workflows_scripts_run_and_carry_the_reports_and_the_exit_code(tmp_path: Path) -> None:
    measure, collect = steps(GITHUB.read_text())
    program = tmp_path / "bin" / "bpudeploy"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$@" > said\nmkdir -p .bpudeploy/nights\nln -s ../../one .bpudeploy/nights/latest\nexit 4\n'
    )
    program.chmod(0o755)
    write_outputs(made.troubled(), [], tmp_path / "one")
    summary = tmp_path / "summary.md"
    variables = {
        "PATH": f"{program.parent}:/usr/bin:/bin", "SUITE": "nightly/suite.yaml", "ONLY": "a@b; rm -rf /",
        "RUNNER_TEMP": str(tmp_path / "temp"), "GITHUB_STEP_SUMMARY": str(summary),
    }  # fmt: skip
    (tmp_path / "temp").mkdir()

    def bash(script: str) -> int:
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=variables, check=False
        ).returncode

    assert bash(collect) == 0 and "No night came to its reports" in summary.read_text()
    summary.unlink()
    assert bash(measure) == 4
    assert (tmp_path / "said").read_text() == "nightly nightly/suite.yaml --only a@b; rm -rf /\n"
    assert bash(collect) == 0
    assert summary.read_text().startswith("## ❌ 3 regressions in 1 of 6 jobs")
    assert (tmp_path / "temp" / "night" / "junit.xml").is_file()


def test_the_service_hands_the_metrics_over(tmp_path: Path) -> None:
    line = re.search(r"(?m)^ExecStopPost=-(.*)$", (SYSTEMD / f"{UNIT}.service").read_text())
    assert line is not None
    script = re.fullmatch(r"/bin/sh -c '(.*)' (\S+)", line[1].replace("$$", "$"))
    assert script is not None and script[2] == "/var/lib/prometheus/node-exporter"
    exporter = tmp_path / "exporter"
    exporter.mkdir()
    write_outputs(made.calm(), [], tmp_path / ".bpudeploy" / "nights" / "one")
    (tmp_path / ".bpudeploy" / "nights" / "latest").symlink_to("one")
    subprocess.run(["/bin/sh", "-c", script[1], str(exporter)], cwd=tmp_path, check=True)
    assert [path.name for path in exporter.iterdir()] == ["bpudeploy.prom"]
    assert (exporter / "bpudeploy.prom").read_text().endswith("# EOF\n")
