"""Finding a vendor's tool, and its entry in the cache key."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bpudeploy.backends.base import ToolMissing
from bpudeploy.backends.horizon.tool import find_tool
from bpudeploy.backends.registry import load_backend
from bpudeploy.errors import StageError
from bpudeploy.spec.compile_options import HbCompileOptions, HbMapperOptions
from tests.fakes.fixtures import VendorTools


@pytest.mark.usefixtures("vendor_tools")
def test_the_key_has_the_version_of_a_tool_on_path() -> None:
    assert load_backend("hb_mapper").fingerprint(HbMapperOptions()) == {"hb_mapper": "1.24.3"}
    assert load_backend("hb_compile").fingerprint(HbCompileOptions()) == {"hb_compile": "3.3.22"}


def test_the_key_has_the_digest_of_a_container(vendor_tools: VendorTools) -> None:
    options = HbMapperOptions(image=vendor_tools.image)
    assert load_backend("hb_mapper").fingerprint(options) == {"hb_mapper": vendor_tools.digest}


def test_a_missing_tool_is_reported_with_how_to_get_it(
    vendor_tools: VendorTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ToolMissing, match="docker has no other:1") as none:
        find_tool("hb_mapper", HbMapperOptions(image="other:1"))
    assert "`docker pull other:1`" in (none.value.hint or "")
    monkeypatch.setenv("FAKE_DOCKER_DOWN", "1")
    with pytest.raises(ToolMissing, match="Cannot connect to the Docker daemon"):
        find_tool("hb_mapper", HbMapperOptions(image="another:1"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="needs docker, which is not on PATH"):
        find_tool("hb_compile", HbCompileOptions(image=vendor_tools.image_h))
    with pytest.raises(ToolMissing, match="hb_compile is neither installed by bpudeploy nor on PATH") as missing:
        find_tool("hb_compile", HbCompileOptions())
    assert "compile: {hb_compile: {image: ...}}" in (missing.value.hint or "")
    with pytest.raises(ToolMissing) as mapper:
        find_tool("hb_mapper", HbMapperOptions())
    assert "`bpudeploy toolchain install`" in (mapper.value.hint or "")


def test_a_tool_without_version_is_identified_by_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "hb_compile"
    script.write_text(f"#!{sys.executable}\nraise SystemExit('no such option')\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="does not report its version"):
        find_tool("hb_compile", HbCompileOptions())
    package = tmp_path / "hmct-2.4.1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: hmct\nVersion: 2.4.1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert find_tool("hb_compile", HbCompileOptions()).fingerprint == {"hb_compile": "hmct 2.4.1"}


def test_the_docker_command_line(vendor_tools: VendorTools) -> None:
    command = find_tool("hb_mapper", HbMapperOptions(image=vendor_tools.image)).command(
        "hb_mapper", ("makertbin", "-c", "x"), Path("/s/w")
    )
    assert command.argv[1:4] == ("run", "--rm", "--name") and command.argv[-4:] == ("hb_mapper", "makertbin", "-c", "x")
    assert command.argv[-5] == vendor_tools.digest and "/s/w:/work" in command.argv
    assert [argv[1:] for argv in command.kill] == [("kill", command.argv[4]), ("rm", "--force", command.argv[4])]
    with pytest.raises(StageError, match="it has a colon"):
        find_tool("hb_mapper", HbMapperOptions(image=vendor_tools.image)).command("hb_mapper", ("x",), Path("/s:t/w"))
