"""Building of plans; inputs of the wrong kind fail at planning time."""

from __future__ import annotations

from collections.abc import Mapping

from bpudeploy.errors import BpudeployError, StageContractError
from bpudeploy.planning.step import Plan, Ref, Step
from bpudeploy.stage import Stage, StageOptions


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
