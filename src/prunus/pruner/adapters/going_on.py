"""A trainer that goes on from its checkpoint needs the masks of that moment."""

from __future__ import annotations

from prunus.errors import OptionError
from prunus.pruner.pruner import Pruner


def check_resumed(pruner: Pruner, step: int, missing: str) -> None:
    """Refuse a trainer that goes on at a step where its pruner does not stand.

    Args:
        pruner: restored, where its state was found.
        step: optimizer steps that the trainer has behind it.
        missing: what was not found, for the message.

    Raises:
        OptionError: the pruner stands elsewhere: its schedule would begin anew in the middle of a training.
    """
    if step and pruner.step != step:
        raise OptionError(
            f"the trainer goes on at step {step}, its pruner stands at {pruner.step}: {missing}. Put it there, give "
            "pruner.load_state_dict the state of that step, or begin anew."
        )
