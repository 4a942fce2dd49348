"""Hugging Face: a ``TrainerCallback``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prunus.pruner.adapters.going_on import check_resumed
from prunus.pruner.checkpoint import read_state, write_state
from prunus.pruner.pruner import Pruner

STATE_FILE = "prunus_pruner.safetensors"


def huggingface_callback(pruner: Pruner, *, minutes: float | None = None) -> Any:
    """Return a callback for ``Trainer(callbacks=[…])``; its checkpoints hold the masks, and resuming finds them.

    Masks are searched in the trainer's output folder; a training that resumes without them is refused.

    ``adaptive`` reads the loss that the network returns; where the trainer computes another one, as with label
    smoothing, call ``pruner.tell(loss)`` in ``compute_loss``.

    With ``minutes`` the training ends when they are over, and masks change at equal times.

    Example:
        ``Trainer(model, args, train_dataset=data, callbacks=[huggingface_callback(pruner)])``
    """
    from transformers import TrainerCallback

    class PrunerCallback(TrainerCallback):
        """Passes the trainer's events to the pruner."""

        def __init__(self) -> None:
            self.loss: torch.Tensor | None = None
            self.handle: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Begin, or continue from the checkpoint that the trainer resumed."""
            file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE
            if state.global_step and file.is_file():
                pruner.load_state_dict(read_state(file))
            check_resumed(pruner, state.global_step, f"there is no {str(file)!r}")
            self._let_go()
            if pruner.follows_loss:
                self.handle = kwargs["model"].register_forward_hook(self._note)
            optimizer = kwargs["optimizer"]
            pruner.train_begin(
                getattr(optimizer, "optimizer", optimizer), None if minutes else state.max_steps, minutes=minutes
            )

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Call the hook before the first forward pass of a step."""
            pruner.step_begin()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Call the hook after gradient clipping."""
            pruner.before_optimizer_step(self.loss)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Call the hook after the optimizer."""
            pruner.after_optimizer_step()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """End a training whose minutes are over."""
            if pruner.out_of_time:
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Write the masks beside the weights."""
            if state.is_world_process_zero and not pruner.plans:
                write_state(Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE, pruner.state_dict())

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """End the pruning."""
            self._let_go()
            pruner.train_end()

        def _let_go(self) -> None:
            if self.handle is not None:
                self.handle.remove()
                self.handle = None

        def _note(self, _module: Any, _inputs: Any, output: Any) -> None:
            self.loss = _loss_of(output)

    return PrunerCallback()


def _loss_of(output: Any) -> torch.Tensor | None:
    """Return the loss in a network's output as the trainer finds it: by name, or first in a tuple."""
    first = output[0] if isinstance(output, tuple) and output else None
    loss = output.get("loss") if hasattr(output, "get") else first
    return loss.detach().mean() if isinstance(loss, torch.Tensor) and loss.dim() < 2 else None
