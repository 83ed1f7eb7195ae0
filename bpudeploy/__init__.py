"""bpudeploy: vision models onto BPU boards, from one recipe.

The Python API. Names are imported when they are used, so ``import bpudeploy`` is quick.

    import bpudeploy

    recipe = bpudeploy.load("recipes/quickstart.yaml")
    release = bpudeploy.build(recipe)
    summary = bpudeploy.deploy(recipe, board="sunrise@192.168.1.10")
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bpudeploy.api import PlannedStep, build, compare, deploy, load, plan
    from bpudeploy.errors import BpudeployError
    from bpudeploy.release import Release
    from bpudeploy.results.compare import Comparison
    from bpudeploy.results.measurement import Measurement
    from bpudeploy.results.summary import Summary
    from bpudeploy.spec.load import LoadedRecipe
    from bpudeploy.spec.recipe import Recipe
    from bpudeploy.spec.target import Target

__all__ = [
    "BpudeployError",
    "Comparison",
    "LoadedRecipe",
    "Measurement",
    "PlannedStep",
    "Recipe",
    "Release",
    "Summary",
    "Target",
    "build",
    "compare",
    "deploy",
    "load",
    "plan",
]

_MODULES = {
    "BpudeployError": "errors",
    "Comparison": "results.compare",
    "LoadedRecipe": "spec.load",
    "Measurement": "results.measurement",
    "PlannedStep": "api",
    "Recipe": "spec.recipe",
    "Release": "release",
    "Summary": "results.summary",
    "Target": "spec.target",
    "build": "api",
    "compare": "api",
    "deploy": "api",
    "load": "api",
    "plan": "api",
}


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'bpudeploy' has no attribute {name!r}")
        return getattr(import_module(f"bpudeploy.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
