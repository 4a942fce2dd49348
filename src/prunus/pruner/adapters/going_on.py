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
            f"the trainer resumes at step {step}, but the pruner is at step {pruner.step}: {missing}. Restore that "
            f"file, load the pruner's state of step {step} with pruner.load_state_dict, or restart the training."
        )
