"""`boards reserve` and `boards release` on a real sshd."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest

from bpudeploy.cli.main import main
from tests.boards.sshd import Home, Server, needs_sshd

pytestmark = needs_sshd


def test_a_board_has_one_owner_until_it_is_released(
    home: Home, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.know(server)
    where = [f"{getpass.getuser()}@{server.address}", "--root", str(tmp_path / "root")]

    def boards(*argv: str) -> tuple[int, str, str]:
        code = main(["boards", *argv, *where])
        out = capsys.readouterr()
        return code, out.out, out.err

    monkeypatch.setenv("LOGNAME", "ann")
    assert boards("release")[1].endswith("was not reserved\n")
    code, out, _ = boards("reserve", "--for", "2h", "--why", "thermal test")
    assert code == 0 and "is reserved for ann@" in out and "thermal test" in out
    monkeypatch.setenv("LOGNAME", "bob")
    code, _, err = boards("reserve", "--for", "5m", "--why", "mine")
    assert code == 5 and "ann@" in err and "thermal test" in err
    code, _, err = boards("release")
    assert code == 5 and "ann@" in err
    code, out, _ = boards("release", "--force", "--json")
    assert code == 0 and json.loads(out)["released"]
    code, out, _ = boards("reserve", "--for", "5m", "--why", "mine", "--json")
    assert code == 0 and json.loads(out)["owner"].startswith("bob@")


@pytest.mark.parametrize("text", ["2", "h", "2 hours", "-1h", "1w"])
def test_a_time_has_a_number_and_a_unit(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards", "reserve", "nowhere", f"--for={text}", "--why", "x"]) == 2
    assert "is not a time" in capsys.readouterr().err
