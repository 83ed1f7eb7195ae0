"""Wiring steps together; a wrong wire fails while planning, before any work."""

from __future__ import annotations

from bpudeploy.errors import StageContractError
from bpudeploy.plan.step import Plan, Ref, Step
from bpudeploy.stage import Stage, StageOptions


class PlanBuilder:
    """Collects steps in order."""

    def __init__(self, recipe: str) -> None:
        self._recipe = recipe
        self._steps: dict[str, Step] = {}

    def add(self, stage: Stage[StageOptions], name: str, options: StageOptions, *inputs: Ref) -> tuple[Ref, ...]:
        """Add a step and return references to its outputs.

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
        return tuple(Ref(name, i, kind) for i, kind in enumerate(stage.gives))

    def build(self) -> Plan:
        """Return the plan."""
        return Plan(self._recipe, tuple(self._steps.values()))
