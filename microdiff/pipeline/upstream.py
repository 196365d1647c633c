"""Run another step, where what it made has been lost or damaged."""

import importlib
import logging
from collections.abc import Callable
from dataclasses import replace

from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace

log = logging.getLogger("microdiff")


def step_function(step: str) -> Callable[[str, Params, Workspace], object]:
    """Return the function that runs a step; steps do not import each other."""
    function: Callable[[str, Params, Workspace], object] = getattr(
        importlib.import_module(f"microdiff.{step}.step"), step
    )
    return function


def recompute(step: str, dataset: str, params: Params, workspace: Workspace) -> None:
    """Compute those partitions of a step that the store lacks, and publish nothing.

    Raises:
        MicrodiffError: As the step.
    """
    step_function(step)(dataset, params, replace(workspace, publishes=False))
