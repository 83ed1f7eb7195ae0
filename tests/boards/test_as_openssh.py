"""~/.ssh/config as resolved by bpudeploy, compared with `ssh -G`."""

from __future__ import annotations

import getpass
import shutil
import subprocess

import pytest

from bpudeploy.boards.address import Address
from bpudeploy.boards.settings import resolve
from tests.boards.sshd import Home

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed")

CONFIGS = {
    "nothing": "",
    "an alias": "Host rdk\n  HostName 192.168.127.10\n  Port 2222\n  User sunrise\n",
    "the first value wins": "Host rdk\n  Port 1\nHost *\n  Port 2\n  User everybody\n",
    "before any Host": "User early\nHost rdk\n  User late\n",
    "patterns": "Host other* !rdk r?k\n  User no\nHost r?k\n  User yes\nHost *dk\n  Port 7\n",
    "a negation": "Host * !rdk\n  User no\nHost *\n  User yes\n",
    "equals signs and quotes": 'Host=rdk\n  Port = 2200\n  User="sunrise"\n  HostName\t10.0.0.9\n',
    "case and comments": "# one\nhost rdk\n  # two\n  HOSTNAME desk.local\n  pOrT 99\n",
    "the name in the name": "Host rdk\n  HostName %h.boards.example\n",
    "an include": "Include more/*.conf\nHost rdk\n  Port 3\n  User late\n",
    "an include inside": "Host rdk\n  Include more/a.conf\n  Port 3\n",
    "match host": "Host rdk\n  HostName board-7\nMatch host board-7\n  User seven\nMatch host rdk\n  User none\n",
    "match originalhost": "Match originalhost rdk\n  User matched\nMatch !originalhost rdk\n  User not\n",
    "match user": "Match user sunrise\n  Port 9\n",
    "match exec": "Match host rdk exec true\n  Port 8\nMatch exec false\n  User no\n",
    "match final": "Match final\n  Port 8\n  ProxyJump bastion\nHost *\n  User late\n",
    "match localuser": f"Match localuser {getpass.getuser()}\n  User me\n",
    "a jump as a URL": "Host rdk\n  ProxyJump ssh://me@h:2022\n",
    "match all": "Match all\n  ConnectTimeout 3\n",
    "one jump": "Host rdk\n  ProxyJump me@bastion:2022\n",
    "two jumps": "Host rdk\n  ProxyJump a,b\n",
    "no jump": "Host rdk\n  ProxyJump none\nHost *\n  ProxyJump bastion\n",
    "known hosts": "Host rdk\n  UserKnownHostsFile ~/.ssh/one ~/.ssh/two\n  GlobalKnownHostsFile /etc/three\n",
    "an alias for the key": "Host rdk\n  HostKeyAlias Desk-7\n",
    "keys": "Host rdk\n  IdentityFile ~/.ssh/id_ed25519\n  IdentitiesOnly yes\n",
    "a time-out": "Host *\n  ConnectTimeout 4\n  ServerAliveInterval 5\n",
}
ADDRESSES = ["rdk", "sunrise@rdk", "rdk:2299"]


@pytest.fixture
def home(home: Home) -> Home:
    (home.ssh / "more").mkdir()
    (home.ssh / "more" / "a.conf").write_text("Host rdk\n  User included\n")
    return home


def openssh_settings(home: Home, address: Address) -> dict[str, str]:
    command = ["ssh", "-F", str(home.ssh / "config"), "-G"]
    command += ["-p", str(address.port)] if address.port else []
    command += ["-l", address.user] if address.user else []
    out = subprocess.run([*command, address.host], check=True, capture_output=True, text=True)
    return dict(line.split(" ", 1) for line in out.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("text", ADDRESSES)
def test_a_config_is_resolved_as_by_openssh(home: Home, name: str, text: str) -> None:
    # ssh takes `~` and a relative Include from the account, not from $HOME: both are written out for both
    config = CONFIGS[name].replace("~", str(home.folder)).replace("more/", f"{home.ssh}/more/")
    home.config(config)
    address = Address.parse(text)
    ours, theirs = resolve(address), openssh_settings(home, address)
    assert (ours.host, str(ours.port), ours.user) == (theirs["hostname"], theirs["port"], theirs["user"])
    assert ",".join(ours.jumps) == theirs.get("proxyjump", "")
    if "KnownHostsFile" in config:
        files = f"{theirs['userknownhostsfile']} {theirs['globalknownhostsfile']}"
        assert " ".join(str(file) for file in ours.files) == files
    if "ConnectTimeout" in config:
        assert str(int(ours.timeout_s)) == theirs["connecttimeout"]
    if "hostkeyalias" in theirs:
        assert ours.known_hosts_name == theirs["hostkeyalias"].lower()
