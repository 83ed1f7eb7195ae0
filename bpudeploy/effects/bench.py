"""benchmark: the single-file agent runs on the board; its JSON lines become a Measurement."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bpudeploy.boards.base import Board
from bpudeploy.digest import Digest, digest_file
from bpudeploy.effects.push import BINARY
from bpudeploy.effects.remote import digests, do
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Progress
from bpudeploy.release import Release
from bpudeploy.results.measurement import BoardFacts, Measurement, Provenance
from bpudeploy.results.statistics import latency_of
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.stage import Artifact

STEP = "benchmark"
_SILENCE_S = 300.0
AGENT = Path(__file__).with_name("agent.py")
DEVICES = {"onnxruntime": "CPU (onnxruntime)"}


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Facts(BoardFacts):
    kind: Literal["facts"]


class _Loaded(_Line):
    kind: Literal["loaded"]
    seconds: float
    batch: int


class _Latencies(_Line):
    kind: Literal["latencies"]
    ms: tuple[float, ...]


class _Logits(_Line):
    kind: Literal["logits"]
    index: int
    of: int
    label: int
    values: tuple[float, ...]


class _Done(_Line):
    kind: Literal["done"]
    images: int
    peak_memory_mb: float


_Any = Annotated[_Facts | _Loaded | _Latencies | _Logits | _Done, Field(discriminator="kind")]
_PARSER: TypeAdapter[_Any] = TypeAdapter(_Any)


def bench(
    board: Board,
    release: Release,
    samples: Artifact,
    method: BenchmarkSpec,
    emit: Callable[[Event], None],
) -> Measurement:
    """Measure the board's current release: latency first, then accuracy on ``samples``.

    Raises:
        BoardError: the agent failed, fell silent, or said something that is not its protocol.
    """
    agent = _place(board, AGENT, digest_file(AGENT), "agents", ".py", emit)
    data = _place(board, samples.path, samples.digest, "data", ".safetensors", emit)
    argv = [board.python, str(agent), "--model", str(board.root / "current" / BINARY), "--samples", str(data)]
    argv += ["--warmup", str(method.warmup), "--min-frames", str(method.min_frames)]
    argv += ["--min-seconds", str(method.min_seconds), "--threads", str(method.threads or 0)]
    facts: _Facts | None = None
    loaded: _Loaded | None = None
    done: _Done | None = None
    latencies: list[float] = []
    answers: list[_Logits] = []
    for line in _lines(board, argv):
        match line:
            case _Facts():
                facts = line
            case _Loaded():
                loaded = line
            case _Latencies():
                latencies += line.ms
                emit(Progress(STEP, len(latencies), max(method.min_frames, len(latencies)), "frames"))
            case _Logits():
                answers.append(line)
                emit(Progress(STEP, len(answers), line.of, "images"))
            case _Done():
                done = line
    if facts is None or loaded is None or done is None or [a.index for a in answers] != list(range(done.images)):
        raise BoardError("the agent ended too early", board=board.name, step=STEP, hint="run again")
    return Measurement(
        provenance=Provenance.MEASURED,
        device=DEVICES[release.manifest.runtime],
        board=board.name,
        release=release.digest,
        facts=BoardFacts(**facts.model_dump(exclude={"kind"})),
        latency=latency_of(latencies, loaded.batch),
        batch=loaded.batch,
        images=done.images,
        correct=sum(max(range(len(a.values)), key=a.values.__getitem__) == a.label for a in answers),
        logits=tuple(a.values for a in answers),
        peak_memory_mb=done.peak_memory_mb,
        load_seconds=loaded.seconds,
        warmup_frames=method.warmup,
    )


def _lines(board: Board, argv: list[str]) -> Iterator[_Any]:
    for line in board.stream(argv, timeout=_SILENCE_S, step=STEP):
        try:
            yield _PARSER.validate_json(line)
        except ValidationError as error:
            raise BoardError(
                f"the agent said {line[:200]!r}, which is not its protocol",
                board=board.name,
                step=STEP,
                hint="does something on the board print to every login's output (.bashrc)?",
            ) from error


def _place(
    board: Board, local: Path, digest: Digest, folder: str, suffix: str, emit: Callable[[Event], None]
) -> PurePosixPath:
    """Bring a file to the board under its digest, once; what is there is verified before it is trusted."""
    remote = board.root / folder / f"{digest}{suffix}"
    if digest in digests(board, [remote], step=STEP).values():
        return remote
    beside = remote.with_name(f".{digest}-{secrets.token_hex(4)}")
    do(board, ["mkdir", "-p", str(remote.parent)], step=STEP, timeout=_SILENCE_S)
    board.put(local, beside, step=STEP, progress=lambda d, t: emit(Progress(STEP, d, t, "bytes")))
    if digest not in digests(board, [beside], step=STEP).values():
        raise BoardError(f"{local.name} arrived damaged", board=board.name, step=STEP, hint="run again")
    do(board, ["mv", "-T", str(beside), str(remote)], step=STEP, timeout=_SILENCE_S)
    return remote
