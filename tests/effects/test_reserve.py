"""Reservations: one holder at a time, first come first served, and nothing that a cut leaves needs a person."""

from __future__ import annotations

import getpass
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.effects.lock import owner
from bpudeploy.effects.push import push
from bpudeploy.effects.reservation import NO_END, Reservation
from bpudeploy.effects.reserve import (
    QueueTiming,
    ReservationStatus,
    Reserved,
    refuse_reserved,
    release,
    reservation,
    reserve,
)
from bpudeploy.effects.rollback import rollback
from bpudeploy.effects.script import Script, script_text
from bpudeploy.errors import BoardError, UsageError
from bpudeploy.events import Event, Note
from bpudeploy.signing import SigningKey
from tests.effects.crash import Recording, Shim
from tests.effects.releases import SOON, Between, OnPath, policy, quiet, served, tools
from tests.effects.releases import release as a_release
from tests.effects.test_sweep import _moment

US = owner().split(" ")[0]
"""Who pushes, in these tests."""
SOON_OVER = QueueTiming(poll_s=0.1, silence_s=1)
BUSYBOX = subprocess.run(["which", "busybox"], capture_output=True, text=True).stdout.strip()
_who = threading.local()


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each thread be somebody: see ``being``."""
    monkeypatch.setattr("bpudeploy.effects.reserve.owner", lambda: f"{getattr(_who, 'name', US)} pid 1")


@contextmanager
def being(name: str) -> Iterator[None]:
    _who.name = name
    try:
        yield
    finally:
        del _who.name


def now() -> int:
    return int(time.time())


def planted(root: Path, text: str, *, at: str = "reservation") -> Path:
    path = root / at
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(text)
    return path


def waiting(root: Path) -> list[Path]:
    return sorted((root / "queue").glob("1?????????-*"))


def tidy(root: Path) -> bool:
    return not list((root / "queue").iterdir()) and not list(root.glob(".*"))


def hold(board: Any, seconds: float = 3600, *, wait_s: float = 0, why: str = "burn-in") -> ReservationStatus:
    return reserve(board, seconds=seconds, why=why, wait_s=wait_s, emit=quiet, timing=SOON_OVER)


@pytest.fixture(params=["its own", "busybox"])
def small(request: pytest.FixtureRequest, board: SshBoard, root: Path, tmp_path: Path) -> Any:
    """Give a board with the tools of this machine, and one that has BusyBox only."""
    return on_busybox(board, tmp_path) if request.param == "busybox" else board


def on_busybox(board: Any, tmp_path: Path) -> OnPath:
    if not BUSYBOX:
        pytest.skip("busybox is not installed")
    applets = tmp_path / "applets"
    if not applets.exists():
        applets.mkdir()
        for name in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
            (applets / name).symlink_to(BUSYBOX)
        (applets / "ssh-keygen").symlink_to("/usr/bin/ssh-keygen")
    return OnPath(board, applets, {}, only=True)


# --- one person


def test_it_is_ours_until_it_is_given_back(small: Any, root: Path) -> None:
    assert reservation(small) is None and release(small, force=False) is None
    assert not (root / "queue").exists(), "to look changes nothing"
    before = now()
    held = hold(small, 3600, why="burn-in of the new SoM")
    assert held.owner == US and held.mine and held.ahead == 0 and held.why == "burn-in of the new SoM"
    assert before + 3600 <= held.until.timestamp() <= now() + 3600
    assert reservation(small) == held
    assert release(small, force=False) == held
    assert reservation(small) is None and release(small, force=True) is None and tidy(root)


def test_once_more_makes_it_longer_and_never_shorter(small: Any, root: Path) -> None:
    first = hold(small, 100)
    longer = hold(small, 7200, why="and more")
    assert longer.until.timestamp() - first.until.timestamp() >= 7100 and longer.why == "and more"
    assert hold(small, 10).until == longer.until


def test_what_a_job_holds_is_not_its_user_s_and_the_other_way_round(board: SshBoard) -> None:
    reserve(board, seconds=60, why="nightly", wait_s=0, emit=quiet, job="lab")
    held = reservation(board)
    assert held is not None and held.owner == f"{US}+lab" and not held.mine
    tries: list[Callable[[], object]] = [
        lambda: hold(board),
        lambda: release(board, force=False),
        lambda: refuse_reserved(board),
    ]
    for refused in tries:
        with pytest.raises(Reserved, match=r"\+lab has reserved it .*: nightly"):
            refused()
    again = reserve(board, seconds=90, why="nightly", wait_s=0, emit=quiet, job="lab")
    assert again.owner == held.owner, "the same job goes on with it"
    assert release(board, force=False, job="lab") is not None
    refuse_reserved(board)
    hold(board)
    refuse_reserved(board)
    with pytest.raises(Reserved):
        reserve(board, seconds=60, why="nightly", wait_s=0, emit=quiet, job="lab")


def test_another_is_told_who_has_it_until_when_and_why(small: Any, root: Path) -> None:
    planted(root, "t 4102444800 ann@desk burn-in, till we know")
    said = r"ann@desk has reserved it until 2100-01-01 00:00:00 UTC: burn-in, till we know"
    with pytest.raises(Reserved, match=said) as caught:
        hold(small)
    assert caught.value.reservation == Reservation(
        "ann@desk", datetime(2100, 1, 1, tzinfo=UTC), "burn-in, till we know"
    )
    assert caught.value.hint and "boards reserve" in caught.value.hint and "ask its holder" in caught.value.hint
    with pytest.raises(Reserved, match=said):
        release(small, force=False)
    assert reservation(small) == ReservationStatus(
        "ann@desk", caught.value.reservation.until, "burn-in, till we know", False, 0
    )
    assert not waiting(root), "who does not wait does not queue"
    taken = release(small, force=True)
    assert taken and taken.owner == "ann@desk" and not taken.mine and reservation(small) is None


def test_it_ends_by_itself(small: Any, root: Path) -> None:
    with being("ann@desk"):
        hold(small, 1)
    started = time.monotonic()
    mine = hold(small, 100, wait_s=20)
    assert mine.mine and time.monotonic() - started < 10 and tidy(root)


def test_who_waits_is_told_once_for_whom_and_leaves_the_queue(small: Any, root: Path) -> None:
    planted(root, "t 4102444800 ann@desk burn-in")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    planted(root, f"{boot} 999999999 60 bob@desk", at="queue/1000000005-0")  # polled just now, for some time
    events = list[Event]()
    with pytest.raises(Reserved, match="ann@desk"):
        reserve(small, seconds=60, why="", wait_s=1, emit=events.append, timing=SOON_OVER)
    said = "ann@desk has reserved it until 2100-01-01 00:00:00 UTC: burn-in (1 ahead of us in the queue): waiting"
    assert events == [Note("reserve", said)]
    assert [p.name for p in waiting(root)] == ["1000000005-0"]
    looked = reservation(small)
    assert looked and looked.ahead == 1
    (root / "reservation").unlink()
    with pytest.raises(Reserved, match=r"bob@desk is the next to have it \(1 ahead of us in the queue\)") as caught:
        hold(small)
    assert caught.value.reservation == Reservation("bob@desk", NO_END, "")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_time_that_is_none(board: SshBoard, root: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="cannot be reserved for"):
        hold(board, seconds)


# --- what it is for: push and rollback


@pytest.fixture
def two(small: Any, root: Path, tmp_path: Path, key: SigningKey) -> Path:
    push(small, a_release(tmp_path, b"old", built=1), policy(key), quiet)
    push(small, a_release(tmp_path, b"new", built=2), policy(key), quiet)
    return root


def test_push_and_rollback_refuse_before_they_change_anything(
    board: SshBoard, two: Path, tmp_path: Path, key: SigningKey
) -> None:
    planted(two, "t 4102444800 ann@desk burn-in")
    shim = Shim.made(tmp_path / "shim")
    watched, said = shim.over(board), r"ann@desk has reserved it until 2100-01-01 00:00:00 UTC: burn-in"
    for content in (b"other", b"new"):  # one that is there already is refused too: what follows a push would disturb
        with pytest.raises(Reserved, match=f"push: {said}"):
            push(watched, a_release(tmp_path, content), policy(key), quiet)
    with pytest.raises(Reserved, match=f"rollback: {said}") as caught:
        rollback(watched, quiet, signed=True, timing=SOON)
    assert caught.value.hint and "bpudeploy boards reserve" in caught.value.hint
    assert shim.count == 0 and served(two, key.public) == b"new"


@pytest.mark.parametrize("by", [f"4102444800 {US} mine", "1 ann@desk expired"])
def test_the_owner_s_own_pushes_work_and_what_is_over_holds_nobody(
    small: Any, two: Path, tmp_path: Path, key: SigningKey, by: str
) -> None:
    planted(two, f"t {by}")
    assert push(small, a_release(tmp_path, b"other", built=3), policy(key), quiet).changed
    rollback(small, quiet, signed=True, timing=SOON)
    assert served(two, key.public) == b"new" and (two / "reservation").is_symlink()


def test_one_that_comes_between_the_look_and_the_lock_counts(
    board: SshBoard, two: Path, tmp_path: Path, key: SigningKey
) -> None:
    late = tmp_path / "late"
    late.mkdir()
    (late / "ln").write_text(
        '#!/bin/sh\n[ -h reservation ] || /bin/ln -s "t 4102444800 ann@desk late" reservation\nexec /bin/ln "$@"\n'
    )
    (late / "ln").chmod(0o755)
    with pytest.raises(Reserved, match="ann@desk"):
        push(OnPath(board, late, {}), a_release(tmp_path, b"other"), policy(key), quiet)
    assert not (two / "lock").is_symlink() and len(list((two / "releases").iterdir())) == 2
    (two / "reservation").unlink()
    with pytest.raises(Reserved, match="ann@desk"):
        rollback(OnPath(board, late, {}), quiet, signed=True, timing=SOON)
    assert not (two / "lock").is_symlink() and served(two, key.public) == b"new"


# --- odd words, odd clocks


ODD = [
    'it\'s "quoted" \\ and 100%s',
    "$(touch owned) `touch owned` ; touch owned & | > owned",
    "new\nline\r\n\tand\u2028more\x85\x1b[31mred\0",
    "* ? [a-z]* ~ -rf --",
    "ü€😀 ̈漢字",
    "x" * 5000,
    "../../elsewhere/" * 40,
    "@ state held",
    " ",
]


@pytest.mark.parametrize("word", ODD, ids=range(len(ODD)))
def test_no_word_is_ever_interpreted(
    small: Any, root: Path, tmp_path: Path, key: SigningKey, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(small, why=word)
    assert (
        held.mine
        and len(held.why) <= 200
        and held.why.isprintable()
        and "".join(held.why.split()) in "".join(c for c in word if c.isprintable() and not c.isspace())
    )
    assert hold(small, 7200, why=word).why == held.why, "a link whose text is no file's name moves too"
    with being("ann@desk"), pytest.raises(Reserved) as caught:
        hold(small, wait_s=0.01, why=word)
    assert caught.value.reservation.why == held.why
    release(small, force=False)
    monkeypatch.undo()
    monkeypatch.setenv("LOGNAME", word[:100].replace("\0", ""))
    mine = hold(small)
    assert mine.mine and len(mine.owner.split()) == 1 and mine.owner.isprintable()
    assert reservation(small) == mine
    if "\n" not in word:
        push(small, a_release(tmp_path, b"x"), policy(key), quiet)
    monkeypatch.setenv("LOGNAME", "ann")
    with pytest.raises(Reserved) as caught:
        push(small, a_release(tmp_path, b"y"), policy(key), quiet)
    assert caught.value.reservation.owner == mine.owner
    assert not list(tmp_path.rglob("owned")) and tidy(root)


@pytest.mark.parametrize("text", ["apt", "t 99999999999999999999 ann@desk x", "t soon ann@desk x", "t  5", "\x1b[31m"])
def test_what_is_none_of_ours_is_in_force_until_somebody_removes_it(
    small: Any, root: Path, tmp_path: Path, key: SigningKey, text: str
) -> None:
    planted(root, text)
    with pytest.raises(Reserved) as caught:
        push(small, a_release(tmp_path, b"x"), policy(key), quiet)
    assert caught.value.reservation.until == NO_END and caught.value.message.isprintable()
    with pytest.raises(Reserved):
        hold(small)
    assert release(small, force=True) is not None and hold(small).mine


def test_what_is_no_link_is_told(small: Any, root: Path) -> None:
    (root / "reservation").write_text("notes")
    with pytest.raises(BoardError, match=r"reserve failed: .*File exists"):
        hold(small)
    assert (root / "reservation").read_text() == "notes"


def test_foreign_things_in_the_queue_hold_nobody_up(small: Any, root: Path) -> None:
    for name in ("notes", "1000000001-x", "1000000002-y", ".claim.z", "0-0", "1000000003-"):
        planted(root, "*" if name != "1000000002-y" else "b 08 1 x y", at=f"queue/{name}")
    (root / "queue" / "1000000004-file").write_text("")
    assert hold(small).mine


@contextmanager
def clock(board: Any, folder: Path, seconds: int | None) -> Iterator[OnPath]:
    """Give a board whose date(1) tells this; None: it has none."""
    some = tools(folder)
    if seconds is not None:
        (some / "date").write_text(f"#!/bin/sh\necho {seconds}\n")
        (some / "date").chmod(0o755)
    yield OnPath(board, some, {}, only=True)


def test_on_a_board_whose_clock_is_behind_it_lasts_longer(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    planted(root, f"t {now() - 1000} ann@desk over")
    with clock(board, tmp_path, 100) as early:
        with pytest.raises(Reserved, match="ann@desk"):
            push(early, a_release(tmp_path, b"x"), policy(key), quiet)
        with pytest.raises(Reserved, match="ann@desk"):
            hold(early)
        release(early, force=True)
        assert hold(early, 50).until.timestamp() == 150
    assert reservation(board) is None, "and it ends when the clock is set"


def test_on_a_board_without_a_clock_it_has_no_end(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    with clock(board, tmp_path, None) as timeless:
        with pytest.raises(BoardError, match=r"reserve failed: .*date"):
            hold(timeless)
        assert tidy(root) and not (root / "reservation").is_symlink()
        push(timeless, a_release(tmp_path, b"x"), policy(key), quiet)
        planted(root, "t 1 ann@desk over")
        with pytest.raises(Reserved, match="ann@desk"):
            push(timeless, a_release(tmp_path, b"y"), policy(key), quiet)
        release(timeless, force=True)
        push(timeless, a_release(tmp_path, b"y"), policy(key), quiet)


# --- many at once


@dataclass
class Crowd:
    """Clients of one board, each a thread with a connection of its own."""

    board: SshBoard
    home: Path
    wrap: Callable[[Any], Any]
    failures: list[BaseException] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    opening: threading.Lock = field(default_factory=threading.Lock)

    def _open(self, stack: ExitStack) -> Any:
        port = int(self.board._connection.get_extra_info("peername")[1])
        identity = Identity(self.home / "client_key", (self.home / "host_key.pub").read_text().strip())
        address = Address("127.0.0.1", getpass.getuser(), port)
        with self.opening:  # sshd drops some of many that log in at the same moment
            wire = open_ssh(
                address, name="b", python=self.board.python, root=PurePosixPath(self.board.root), identity=identity
            )
            return self.wrap(stack.enter_context(wire))

    def start(self, name: str, work: Callable[[Any], None]) -> None:
        def run() -> None:
            try:
                with being(name), ExitStack() as stack:
                    work(self._open(stack))
            except BaseException as error:
                self.failures.append(error)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def end(self) -> None:
        for thread in self.threads:
            thread.join()
        assert not self.failures, self.failures


@pytest.fixture
def crowd(request: pytest.FixtureRequest, board: SshBoard, home: Path, root: Path, tmp_path: Path) -> Crowd:
    if request.param == "its own":
        return Crowd(board, home, lambda opened: opened)
    on_busybox(board, tmp_path)
    return Crowd(board, home, lambda opened: on_busybox(opened, tmp_path))


OF = [("its own", 2), ("its own", 5), ("its own", 20), ("busybox", 5)]


@pytest.mark.parametrize(("crowd", "many"), OF, indirect=["crowd"])
@pytest.mark.parametrize("before", ["free", "expired", "given back"])
def test_of_many_at_once_one_gets_it(crowd: Crowd, root: Path, many: int, before: str) -> None:
    rounds = 3
    start, end = threading.Barrier(many), threading.Barrier(many)
    got: list[list[str]] = [[] for _ in range(rounds)]
    told: list[list[str]] = [[] for _ in range(rounds)]
    if before == "expired":
        planted(root, "t 1 zoe@desk over")

    def work(board: Any) -> None:
        for number in range(rounds):
            start.wait(60)
            try:
                got[number].append(hold(board).owner)
            except Reserved as error:
                told[number].append(error.reservation.owner)
            if end.wait(60) == 0:
                if before == "expired":
                    planted(root, "t 1 zoe@desk over")
                else:
                    release(board, force=True)

    for number in range(many):
        crowd.start(f"u{number}@desk", work)
    crowd.end()
    for winners, others in zip(got, told, strict=True):
        assert len(winners) == 1 and others == winners * (many - 1)
    assert tidy(root)


@pytest.mark.parametrize(("crowd", "many"), OF, indirect=["crowd"])
def test_first_come_first_served_and_never_two(crowd: Crowd, root: Path, many: int) -> None:
    planted(root, f"t {now() + 3600} zoe@desk first of all")
    holding, order, most = list[str](), list[str](), list[int]()

    def work(board: Any) -> None:
        timing = QueueTiming(poll_s=0.05 * many, silence_s=60)
        mine = reserve(board, seconds=60, why="mine", wait_s=200, emit=quiet, timing=timing)
        holding.append(mine.owner)
        order.append(mine.owner)
        for _ in range(3):
            most.append(len(holding))
            looked = reservation(board)
            assert looked and looked.mine
        holding.remove(mine.owner)
        release(board, force=False)

    names = [f"u{number}@desk" for number in range(many)]
    for number, name in enumerate(names):
        crowd.start(name, work)
        while len(waiting(root)) <= number and not crowd.failures:
            time.sleep(0.02)
    (root / "reservation").unlink()
    crowd.end()
    assert order == names and max(most) == 1 and tidy(root)


@pytest.mark.parametrize("crowd", ["its own", "busybox"], indirect=True)
def test_many_take_turns_without_a_word(crowd: Crowd, root: Path) -> None:
    """They come at once, each several times: never two hold it at the same time."""
    holding, most = list[str](), list[int]()

    def work(board: Any) -> None:
        for _ in range(3):
            reserve(board, seconds=600, why="", wait_s=200, emit=quiet, timing=QueueTiming(0.2, 60))
            holding.append("")
            most.append(len(holding))
            time.sleep(0.05)
            most.append(len(holding))
            holding.pop()
            release(board, force=False)

    for number in range(5):
        crowd.start(f"u{number}@desk", work)
    crowd.end()
    assert len(most) == 30 and max(most) == 1 and tidy(root)


# --- those who die


def dies_after(board: Any, calls: int) -> Between:
    def around(call: int, work: Callable[[], Any]) -> Any:
        if call > calls:
            raise BoardError("gone", board="b", step="reserve")
        return work()

    return Between(board, around)


def test_who_dies_in_the_queue_holds_nobody_up(small: Any, root: Path) -> None:
    planted(root, f"t {now() + 3600} zoe@desk x")
    with being("ann@desk"), pytest.raises(BoardError, match="gone"):
        hold(dies_after(small, 2), wait_s=60)
    assert len(waiting(root)) == 1
    (root / "reservation").unlink()
    with pytest.raises(Reserved, match="ann@desk is the next to have it: burn-in"):
        reserve(small, seconds=60, why="", wait_s=0, emit=quiet)
    started = time.monotonic()
    assert hold(small, wait_s=30).mine and 0.5 < time.monotonic() - started < 15 and tidy(root)


def test_a_place_of_before_the_board_s_last_start_is_kept_for_a_while(small: Any, root: Path) -> None:
    up = int(float(Path("/proc/uptime").read_text().split()[0]))
    planted(root, f"0c7de1aa-0000-4000-8000-000000000000 {up + 5000} 60 ann@desk x", at="queue/1000000001-aa")
    with pytest.raises(Reserved, match="ann@desk is the next"):
        reserve(small, seconds=60, why="", wait_s=0, emit=quiet, timing=QueueTiming(1, up + 100))
    assert reserve(
        small, seconds=60, why="", wait_s=0, emit=quiet, timing=QueueTiming(1, max(1, up - 100))
    ).mine and tidy(root)


def test_a_claim_counts_while_its_process_lives(small: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    monkeypatch.setattr("bpudeploy.effects.reserve._BUSY_S", 1.0)
    with subprocess.Popen(["sleep", "100"]) as other:
        born = Path(f"/proc/{other.pid}/stat").read_text().rpartition(") ")[2].split()[19]
        for name in ("0", "z"):  # before ours, and after it
            claim = planted(root, f"{boot} {other.pid} {born}", at=f"queue/.claim.{name}")
            with pytest.raises(BoardError, match="others are reserving it at this moment"):
                hold(small)
            claim.unlink()
        planted(root, f"{boot} {other.pid} {int(born) + 1}", at="queue/.claim.0")
        assert hold(small).mine and tidy(root), "its number is another process's now"
        planted(root, f"{boot} {other.pid} {born}", at="queue/.claim.z")
        other.kill()
    assert hold(small).mine and tidy(root)
    planted(root, "0c7de1aa-0000-4000-8000-000000000000 1 1", at="queue/.claim.0")
    assert hold(small).mine and tidy(root)


@dataclass(frozen=True)
class Case:
    """What is there before, what is done, and whose the reservation may be after a cut."""

    name: str
    act: Callable[[Any], object]
    link: str | None = None
    ticket: str | None = None
    whose: tuple[str | None, ...] = (None, US)


def _and_leave(board: Any) -> None:
    with pytest.raises(Reserved):
        hold(board, wait_s=0.001)


THEIRS, MINE = "t 4102444800 zoe@desk x", f"t 4102444800 {US} x"
CASES = [
    Case("free", hold),
    Case("over", hold, "t 1 zoe@desk x"),
    Case("longer", lambda board: hold(board, 300 * 86400), f"t {now() + 3600} {US} x", whose=(US,)),
    Case("a dead one before us", hold, None, "b 1 60 dead@desk x"),
    Case("queue and leave", _and_leave, THEIRS, None, ("zoe@desk",)),
    Case("give back", lambda board: release(board, force=False), MINE, None, (None, US)),
    Case("take away", lambda board: release(board, force=True), THEIRS, None, (None, "zoe@desk")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed_before_in_and_after_every_command(board: SshBoard, root: Path, tmp_path: Path, case: Case) -> None:
    """Whatever is cut, the next one can go on at once, or as soon as a place is given up; nobody has to tidy."""
    shim = Shim.made(tmp_path / "shim")

    def again() -> None:
        for path in (root / "reservation", *(root / "queue").glob("*"), *(root / "queue").glob(".*")):
            path.unlink(missing_ok=True)
        if (root / "queue").exists():
            (root / "queue").rmdir()
        if case.link:
            planted(root, case.link)
        if case.ticket:
            planted(root, case.ticket, at="queue/1000000000-dead")

    again()
    case.act(shim.over(board))
    commands, ways = shim.count, [shim.ways(number + 1) for number in range(shim.count)]
    assert commands >= 3 and not list((root / "queue").glob(".*"))
    cuts, seen = 0, set[str | None]()
    for number in range(1, commands + 1):
        for how in ways[number - 1]:
            again()
            try:
                case.act(dies_with_its_board(shim.over(board, cut=number, how=how)))
            except BoardError as error:
                assert how != "fail" or "No space left" in str(error)
            except (AssertionError, pytest.fail.Exception):
                assert how == "fail", "only what tidies may fail and not be told"
            cuts += 1
            after = reservation(board)
            seen.add(after.owner if after else None)
            assert seen <= set(case.whose), (number, how, seen)
            with being("next@desk"):
                release(board, force=True)
                assert hold(board, wait_s=20).mine
                assert tidy(root), (number, how, list((root / "queue").iterdir()))
    print(f"{case.name}: {commands} commands, {cuts} cuts")
    assert seen == set(case.whose)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_said_outlasts_a_power_failure(board: SshBoard, root: Path, tmp_path: Path, case: Case) -> None:
    """Once it is said, the root's folder cannot be on the disk but as it was said."""
    if case.link:
        planted(root, case.link)
    shim = Shim.made(tmp_path / "shim")
    before = _moment(root, shim)
    case.act(shim.over(board, how="record"))
    after = reservation(board)
    recording = Recording.read(shim, before, root)
    last = recording.moments[-1]
    for top in recording._versions("folders", last.root, len(recording.moments) - 1):
        found = last.links[top["reservation"]] if "reservation" in top else None
        assert (Reservation.parse(found).owner if found else None) == (after.owner if after else None)
    if case.act is _and_leave:
        inside = recording._versions("folders", last.folders[last.root]["queue"], len(recording.moments) - 1)
        assert any(name.startswith("1000000001-") for names in inside for name in names), "a place does too"


def dies_with_its_board(board: Any) -> Between:
    """Who was cut off asks nothing any more."""
    dead = list[BaseException]()

    def around(call: int, work: Callable[[], Any]) -> Any:
        if dead:
            raise dead[0]
        made = work()
        if made.status in (-1, 137, 255) or made.status < 0:
            dead.append(BoardError("gone", board="b", step="reserve"))
            raise dead[0]
        return made

    return Between(board, around)


# --- are the tests any good?


@pytest.mark.parametrize(
    ("line", "instead"),
    [("while others; do", "while false; do"), ('if ! lives "$text"; then', "if true; then")],
)
def test_without_the_claims_two_would_hold_it(
    board: SshBoard, home: Path, root: Path, monkeypatch: pytest.MonkeyPatch, line: str, instead: str
) -> None:
    whole = script_text(Script.RESERVE)
    worse = whole.replace(line, instead)
    assert worse != whole
    # where each is held up between its look and its deed, as on a slow board
    worse = worse.replace("ends=$((clock + seconds))\n", "ends=$((clock + seconds))\nsleep 0.3\n")
    monkeypatch.setattr(
        "bpudeploy.effects.script.script_text",
        lambda wanted: worse if wanted is Script.RESERVE else script_text(wanted),
    )
    with pytest.raises(AssertionError):
        test_of_many_at_once_one_gets_it(Crowd(board, home, lambda opened: opened), root, 5, "expired")
