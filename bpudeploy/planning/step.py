"""A plan: steps in order, each a stage bound to its options and to the outputs of earlier steps."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from bpudeploy.digest import Digest, Key, key_of
from bpudeploy.errors import BpudeployError, StageContractError, UsageError
from bpudeploy.stage import Kind, Stage, StageOptions


@dataclass(frozen=True)
class Ref:
    """The output named ``output`` of the step named ``step``."""

    step: str
    output: str
    kind: Kind


@dataclass(frozen=True)
class Step:
    """A stage bound to options and inputs. ``name`` is GROUP or GROUP/PART, such as ``fetch/model``."""

    name: str
    stage: Stage[Any]
    options: Any
    inputs: tuple[Ref, ...]

    @property
    def group(self) -> str:
        """The user-visible stage: fetch, restructure, quantize, compile."""
        return self.name.split("/")[0]

    def key_parts(self, inputs: tuple[Digest, ...]) -> dict[str, Any]:
        """Return the parts of the key in readable form."""
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "options": self.options.canonical(),
            "inputs": {
                f"{i} {ref.step}": digest for i, (ref, digest) in enumerate(zip(self.inputs, inputs, strict=True))
            },
            "tools": {name: tool_version(name) for name in self.stage.tools} | dict(self.stage.fingerprint),
        }


def step_key(parts: Mapping[str, Any]) -> Key:
    """Return the key of a step, from its input digests in order, options, version and tools."""
    return key_of("step", {**parts, "inputs": list(parts["inputs"].values())})


@dataclass(frozen=True)
class Plan:
    """Steps in topological order."""

    recipe: str
    steps: tuple[Step, ...]
    unavailable: Mapping[str, BpudeployError] = field(default_factory=dict)
    """Steps that this machine cannot run, which are not in ``steps``, with the error to raise if one is requested."""

    def select(self, names: Collection[str]) -> frozenset[str]:
        """Return the steps that ``names`` (of steps or groups) select.

        Raises:
            UsageError: a name that is neither.
            BpudeployError: a step that this machine cannot run.
        """
        chosen: set[str] = set()
        for name in names:
            if name in self.unavailable:
                raise self.unavailable[name]
            found = [s.name for s in self.steps if name in (s.name, s.group)]
            if not found:
                raise UsageError(f"no stage or step is named {name!r}", hint=_nearest(name, self.steps))
            chosen.update([name] if name in found and "/" in name else found)
        return frozenset(chosen)

    def until(self, name: str | None) -> Plan:
        """Return the plan up to and including the last step that ``name`` selects."""
        if name is None:
            return self
        chosen = self.select([name])
        last = max(i for i, step in enumerate(self.steps) if step.name in chosen)
        return replace(self, steps=self.steps[: last + 1])

    def upto(self, step: str) -> Plan:
        """Return the plan up to and including exactly that step, without the rest of its stage."""
        return replace(self, steps=self.steps[: self.steps.index(self.step(step)) + 1])

    def step(self, name: str) -> Step:
        """Return the step of that name.

        Raises:
            UsageError: there is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise UsageError(f"no step is named {name!r}", hint=_nearest(name, self.steps))


class PlanBuilder:
    """Collects the steps of a plan in order."""

    def __init__(self, recipe: str) -> None:
        self._recipe = recipe
        self._steps: dict[str, Step] = {}

    def add(self, stage: Stage[StageOptions], name: str, options: StageOptions, *inputs: Ref) -> Mapping[str, Ref]:
        """Add a step and return references to its outputs, by name.

        Raises:
            StageContractError: the inputs are not of the kinds that the stage takes, or the name is taken.
        """
        kinds = tuple(ref.kind for ref in inputs)
        if kinds != stage.takes or name in self._steps:
            raise StageContractError(
                f"step {name!r} is wired {[k.value for k in kinds]}, stage {stage.name!r} takes "
                f"{[k.value for k in stage.takes]}",
                hint="this is a bug in the pipeline",
            )
        self._steps[name] = Step(name, stage, options, inputs)
        return {output: Ref(name, output, kind) for output, kind in stage.gives.items()}

    def build(self, unavailable: Mapping[str, BpudeployError] = {}) -> Plan:
        """Return the plan; ``unavailable`` as in ``Plan``."""
        return Plan(self._recipe, tuple(self._steps.values()), unavailable)


def _nearest(name: str, steps: Iterable[Step]) -> str:
    names = list(dict.fromkeys(n for s in steps for n in (s.group, s.name)))
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"names: {', '.join(names)}"


@cache
def tool_version(distribution: str) -> str:
    """Return a distribution's version from its metadata, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
