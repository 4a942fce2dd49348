"""A check that a trainer which resumes from a checkpoint has the masks of that step."""

from __future__ import annotations

from prunus.errors import OptionError
from prunus.pruner.pruner import Pruner


def check_resumed(pruner: Pruner, step: int, missing: str) -> None:
    """Refuse a trainer that resumes at another step than its pruner.

    Args:
        pruner: the pruner, restored if its state was found.
        step: the optimizer steps that the trainer has done.
        missing: the missing state, for the message.

    Raises:
        OptionError: the pruner is at another step, and its schedule would begin anew in the middle of a training.
    """
    if step and pruner.step != step:
        raise OptionError(
            f"the trainer goes on at step {step}, its pruner stands at {pruner.step}: {missing}. Put it there, give "
            "pruner.load_state_dict the state of that step, or begin anew."
        )
