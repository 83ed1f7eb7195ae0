"""A fake of the docker client: one image, the fake tools in it, containers that outlive a killed client.

State is in the folder FAKE_DOCKER_STATE: NAME.json for every container that runs, ``history.jsonl`` with one line for
every container that ended, ``containers/`` with output and scratch files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.fakes.docker_run import Run, read_run
from tests.fakes.say import options

DAEMON = "Error response from daemon: "
_DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
_LOGS = "containers"


@dataclass(frozen=True)
class Image:
    """An image that the daemon has."""

    repository: str
    tag: str
    digest: str

    def is_called(self, name: str) -> bool:
        """Tell whether ``name`` is this image."""
        if name in (self.digest, self.digest.removeprefix("sha256:")[:12]):
            return True
        if "@" in name:
            return name in (f"{self.repository}@{self.digest}", f"{self.repository}:{self.tag}@{self.digest}")
        last = name.rsplit("/", 1)[-1]
        return (name if ":" in last else f"{name}:latest") == f"{self.repository}:{self.tag}"

    @property
    def tool(self) -> str:
        """The vendor's tool in it: an S100's image has no hb_mapper."""
        return "hb_compile" if "_s100" in self.repository else "hb_mapper"

    @property
    def values(self) -> dict[str, Any]:
        """What a template can ask for."""
        return {
            ".Id": self.digest,
            ".RepoTags": [f"{self.repository}:{self.tag}"],
            ".RepoDigests": [f"{self.repository}@{self.digest}"],
            ".Created": "2024-08-27T15:17:45Z",
            ".Architecture": "amd64",
            ".Os": "linux",
            ".Repository": self.repository,
            ".Tag": self.tag,
            ".Digest": self.digest,
            ".ID": self.digest.removeprefix("sha256:")[:12],
        }


def state() -> Path:
    """Return the folder of the state."""
    folder = Path(os.environ["FAKE_DOCKER_STATE"])
    (folder / _LOGS).mkdir(parents=True, exist_ok=True)
    return folder


def every_image() -> list[Image]:
    """Return the images that are present, from FAKE_DOCKER_IMAGE: NAME:TAG@DIGEST, spaces between them."""
    found = []
    for word in os.environ.get("FAKE_DOCKER_IMAGE", "").split():
        named, _, digest = word.partition("@")
        repository, _, tag = named.rpartition(":")
        found.append(Image(repository, tag, digest))
    return found


def find_image(name: str) -> Image | None:
    """Return the image of that name, tag (latest where none), digest or id."""
    return next((i for i in every_image() if i.is_called(name)), None)


def fail(text: str, status: int) -> NoReturn:
    """Print to stderr, and end."""
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(status)


def run(argv: list[str]) -> int:
    """Start a container and follow it; the client's own failures are 125."""
    wanted = read_run(argv, lambda text: fail(text, 125))
    found = find_image(wanted.image)
    if found is None:
        if wanted.pull != "never":
            tagged = wanted.image if ":" in wanted.image.rsplit("/", 1)[-1] else f"{wanted.image}:latest"
            print(f"Unable to find image '{tagged}' locally", file=sys.stderr, flush=True)
            why = f"pull access denied for {wanted.image.partition(':')[0]}, repository does not exist or may require "
            fail(f"docker: {DAEMON}{why}'docker login': denied: requested access to the resource is denied", 125)
        fail(f"docker: {DAEMON}No such image: {wanted.image}", 125)
    name = wanted.name or f"fake_{secrets.token_hex(4)}"
    taken = (_running() | _exited()).get(name, {}).get("id")
    if taken:
        fail(
            f'docker: {DAEMON}Conflict. The container name "/{name}" is already in use by container "{taken}". '
            "You have to remove (or rename) that container to be able to reuse that name.",
            125,
        )
    _executable(wanted, found)
    spec = _spec(wanted, name)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.fakes.docker_daemon", str(spec)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as shim:
        return _follow(spec, wanted, shim)


def _executable(wanted: Run, found: Image) -> None:
    """End as docker does where the image cannot start the command."""
    if wanted.command[0] == found.tool:
        return
    start = f'docker: {DAEMON}failed to create task for container: exec: "{wanted.command[0]}": '
    if wanted.command[0].startswith("/"):
        fail(f"{start}permission denied: unknown.", 126)
    fail(f"{start}executable file not found in $PATH: unknown.", 127)


def _spec(wanted: Run, name: str) -> Path:
    """Write down what the container is; make the folders that docker makes."""
    ident = secrets.token_hex(32)
    folder = state() / _LOGS / ident[:12]
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    for mount in wanted.mounts:
        Path(mount["host"]).mkdir(parents=True, exist_ok=True)
    spec = {
        **{"id": ident, "name": name, "image": wanted.image, "command": wanted.command, "mounts": wanted.mounts},
        **{"cwd": wanted.workdir, "scratch": str(scratch), "environment": wanted.environment, "rm": wanted.rm},
        **{"user": wanted.user, "network": wanted.network, "memory": wanted.memory, "folder": str(folder)},
        "flags": wanted.flags,
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


def _follow(spec: Path, wanted: Run, shim: subprocess.Popen[bytes]) -> int:
    """Copy the container's output until it ends. Signals go to its first process, which ignores SIGTERM.

    That is docker's own trap: without --init nothing in the container takes a SIGTERM.
    """
    folder = spec.parent

    def forward(number: int, _: object) -> None:
        if number == signal.SIGINT or wanted.init:
            running = json.loads(spec.read_text()).get("pid")
            if running:
                os.kill(running, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    places = {"out": 0, "err": 0}
    ended = False
    while True:
        for stream, target in (("out", sys.stdout), ("err", sys.stderr)):
            log = folder / stream
            if log.exists():
                with log.open("rb") as source:
                    source.seek(places[stream])
                    new = source.read()
                places[stream] += len(new)
                target.buffer.write(new)
                target.flush()
        if ended:
            return int((folder / "exit").read_text())
        ended = (folder / "exit").exists() or shim.poll() is not None
        if not ended:
            time.sleep(0.02)


def _running() -> dict[str, dict[str, Any]]:
    return {p.stem: json.loads(p.read_text()) for p in sorted(state().glob("*.json"))}


def _exited() -> dict[str, dict[str, Any]]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((state() / _LOGS).glob("*.exited"))}


def _find(name: str) -> dict[str, Any] | None:
    return next((s for n, s in _running().items() if n == name or (len(name) > 3 and s["id"].startswith(name))), None)


def _end(spec: dict[str, Any], number: int) -> None:
    """Signal the container's process and wait until its daemon has written it off."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(spec["pid"], number)
    until = time.monotonic() + 10
    while (state() / f"{spec['name']}.json").exists() and time.monotonic() < until:
        time.sleep(0.02)


def kill(argv: list[str]) -> int:
    """Kill running containers; a name that is not running is an error, and the others are killed."""
    status, number, names = 0, signal.SIGKILL, []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-s", "--signal"):
            number = getattr(signal, "SIG" + rest.pop(0).removeprefix("SIG"))
        elif word.startswith("-"):
            fail(f"unknown flag: {word}\nSee 'docker kill --help'.", 125)
        else:
            names.append(word)
    for name in names:
        spec = _find(name)
        if spec is None:
            gone = _exited().get(name)
            why = f"No such container: {name}" if gone is None else f"container {gone['id']} is not running"
            print(f"{DAEMON}Cannot kill container: {name}: {why}", file=sys.stderr)
            status = 1
            continue
        _end(spec, number)
        print(name)
    return status


def remove(argv: list[str]) -> int:
    """``rm -f``: kill and forget."""
    force = {"-f", "--force"} & set(argv)
    status = 0
    for name in (a for a in argv if not a.startswith("-")):
        spec = _find(name)
        if spec is None and name in _exited():
            (state() / _LOGS / f"{name}.exited").unlink()
            print(name)
        elif spec is None:
            print(f"{DAEMON}No such container: {name}", file=sys.stderr)
            status = 1
        elif not force:
            why = f'cannot remove container "/{name}": container is running: stop the container before removing'
            print(f"{DAEMON}{why} or force remove", file=sys.stderr)
            status = 1
        else:
            _end(spec, signal.SIGKILL)
            print(name)
    return status


def _template(text: str, values: dict[str, Any]) -> str:
    """Fill in the few Go templates that are needed, and refuse the others."""

    def one(match: re.Match[str]) -> str:
        words = match[1].split()
        if words[0] == "json" and len(words) == 2:
            return json.dumps(values[words[1]])
        if words[0] == "index" and len(words) == 3:
            return str(values[words[1]][int(words[2])])
        value = values[words[0]]
        return f"[{' '.join(value)}]" if isinstance(value, list) else str(value)

    try:
        return re.sub(r"\{\{\s*(.+?)\s*\}\}", one, text)
    except (KeyError, IndexError, ValueError) as problem:
        fail(f"template parsing error: template: :1: {problem}", 1)


def image_command(argv: list[str]) -> int:
    """``image inspect``."""
    if argv[:1] != ["inspect"]:
        fail(f"fake: docker image {' '.join(argv[:1])} is not imitated", 70)
    template, names = None, []
    rest = argv[1:]
    while rest:
        word = rest.pop(0)
        if word in ("--format", "-f"):
            template = rest.pop(0)
        elif word.startswith("--format="):
            template = word.partition("=")[2]
        elif word.startswith("-"):
            fail(f"unknown flag: {word}\nSee 'docker image inspect --help'.", 125)
        else:
            names.append(word)
    for name in names:
        found = find_image(name)
        if found is None:
            print("[]" if template is None else "")
            fail(f"Error: No such image: {name}", 1)
        plain = json.dumps([{k[1:]: v for k, v in found.values.items()}])
        print(plain if template is None else _template(template, found.values))
    return 0


def images(argv: list[str]) -> int:
    """``images [--digests]``."""
    template = argv[argv.index("--format") + 1] if "--format" in argv else None
    rows = [["REPOSITORY", "TAG", *(["DIGEST"] if "--digests" in argv else []), "IMAGE ID", "CREATED", "SIZE"]]
    for found in every_image():
        digest = [found.digest] if "--digests" in argv else []
        rows.append([found.repository, found.tag, *digest, found.values[".ID"], "2 years ago", "9.8GB"])
        if template is not None:
            print(_template(template, found.values))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows if template is None else []:
        print("   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    return 0


def ps(argv: list[str]) -> int:
    """``ps``: the containers that run."""
    arity = {"--filter": 1, "--format": 1, "--all": 0, "--quiet": 0, "--no-trunc": 0}
    short = {"-f": "--filter", "-a": "--all", "-q": "--quiet"}
    given = options(argv, arity, short, lambda text: fail(f"{text}\nSee 'docker ps --help'.", 125))
    wanted = [value[0].partition("=") for value in given.values.get("--filter", [])]
    if any(key != "name" for key, _, _ in wanted):
        fail("fake: only --filter name=PATTERN is imitated", 70)
    every = _running() | (_exited() if given.has("--all") else {})
    found = [s for n, s in every.items() if all(re.search(w.lstrip("^/"), n) for _, _, w in wanted)]
    template, quiet = given.one("--format"), given.has("--quiet")
    if template is None and not quiet:
        print("CONTAINER ID   IMAGE   COMMAND   CREATED   STATUS   PORTS   NAMES")
    for spec in found:
        ident = spec["id"] if given.has("--no-trunc") else spec["id"][:12]
        status = "Up 1 second" if "exit" not in spec else f"Exited ({spec['exit']}) 1 second ago"
        values = {".Names": spec["name"], ".ID": ident, ".Image": spec["image"], ".Status": status}
        plain = f'{ident}   {spec["image"]}   "{spec["command"][0]}"   now   {status}      {spec["name"]}'
        print(ident if quiet else plain if template is None else _template(template, values))
    return 0


def version(argv: list[str]) -> int:
    """``version``, with or without a template."""
    given = options(argv, {"--format": 1}, {"-f": "--format"}, lambda text: fail(text, 125))
    template = given.one("--format") or "Server Version: {{.Server.Version}}"
    print(_template(template, {".Server.Version": "27.3.1", ".Client.Version": "27.3.1"}))
    return 0


def main(argv: list[str]) -> int:
    """Run one command; return the exit status."""
    commands: dict[str, Callable[[list[str]], int]] = {
        **{"run": run, "kill": kill, "rm": remove, "image": image_command, "images": images, "ps": ps},
        "version": version,
    }
    if argv[:1] == ["--version"]:
        print("Docker version 27.3.1, build ce12230")
        return 0
    if not argv or argv[0] not in commands:
        fail(f"docker: '{(argv or [''])[0]}' is not a docker command.\nSee 'docker --help'", 1)
    if "FAKE_DOCKER_DOWN" in os.environ:
        fail(f"docker: {_DOWN}" if argv[0] == "run" else _DOWN, 125 if argv[0] == "run" else 1)
    return commands[argv[0]](argv[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
