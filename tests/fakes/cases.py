"""Every refusal of the fakes, from refusals_*.yaml: what is wrong, what the tool says then, and who documents it.

Each case is a change to what holds (small.py): to the YAML (``edit``; null takes a key away), to the model (``model``:
arguments of ``small.network``, a ``node`` in its middle, or a name of MODELS), to the folder (``prepare``), to the
command line (``argv``) or to the environment. ``inferred``: that it is refused is documented, the words are the sister
tool's, a library's or ours. `python -m tests.fakes.docs` prints them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.small import network

TOOLS = ("hb_compile", "docker")


@dataclass(frozen=True)
class Case:
    """One refusal."""

    name: str
    wrong: str
    says: tuple[str, ...]
    source: str
    inferred: bool = False
    edit: dict[str, Any] = field(default_factory=dict)
    march: str = ""
    model: dict[str, Any] | str | None = None
    prepare: str = ""
    argv: tuple[str, ...] = ()
    status: int | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def made(self) -> Any:
        """Return the model, None where it is the small network."""
        if isinstance(self.model, str):
            return MODELS[self.model]()
        if self.model is None:
            return None
        wanted = dict(self.model)
        node = wanted.pop("node", None)
        return network(**wanted, nodes=None if node is None else [_node(**node)])


def cases(tool: str) -> tuple[Case, ...]:
    """Return the refusals of a tool."""
    loaded: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / f"refusals_{tool}.yaml").read_text())
    for each in loaded:
        each |= {key: tuple(each[key]) for key in ("says", "argv") if key in each}
    return tuple(Case(**each) for each in loaded)


def prepare(folder: Path, what: str) -> None:
    """Change the folder: a verb, and what it is done to."""
    verb, _, rest = what.partition(" ")
    if verb:
        _VERBS[verb](folder, rest)


def _node(op: str, name: str, domain: str = "", inputs: tuple[str, ...] = ("r",), **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(op, list(inputs), ["m"], name=name, domain=domain, **attributes)


def _plain() -> Any:
    """Return a network with no convolution."""
    model = network()
    first = model.graph.node[0]
    first.op_type, first.name = "Exp", "/stem/Exp"
    del first.input[1], first.attribute[:]
    return model


def _two_inputs() -> Any:
    import onnx
    from onnx import helper

    model = network(nodes=[_node("Add", "/join/Add", inputs=("r", "z"))])
    model.graph.input.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 4, 8, 8]))
    return model


MODELS: dict[str, Callable[[], Any]] = {"plain": _plain, "two_inputs": _two_inputs}


def _empty(folder: Path, name: str) -> None:
    for each in (folder / name).iterdir():
        each.unlink()


def _remove(folder: Path, name: str) -> None:
    _empty(folder, name)
    (folder / name).rmdir()


def _link(folder: Path, name: str) -> None:
    outside = folder.parent / f"{folder.name}_outside"
    outside.mkdir()
    (folder / name).rename(outside / name)
    (folder / name).symlink_to(outside / name)


def _npy(folder: Path, words: str) -> None:
    import numpy as np

    dtype, shape = words.split()
    np.save(folder / "cal_npy" / "1.npy", np.zeros([int(n) for n in shape.split("x")], dtype))


_VERBS: dict[str, Callable[[Path, str], object]] = {
    "unlink": lambda folder, name: (folder / name).unlink(),
    "garbage": lambda folder, name: (folder / name).write_bytes(b"not what it is called"),
    "bad": lambda folder, _: (folder / "c.yaml").write_text("a: [1\nb: 2"),
    "list": lambda folder, _: (folder / "c.yaml").write_text("- 1\n"),
    "short": lambda folder, name: (folder / name / "1.rgb").write_bytes(b"\0" * 400),
    "rename": lambda folder, words: (folder / words.split()[0]).rename(folder / words.split()[2]),
    "link": _link,
    "npy": _npy,
    "empty": _empty,
    "remove": _remove,
}
