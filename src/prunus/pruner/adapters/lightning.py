"""Lightning: a ``Callback``."""

from __future__ import annotations

import math
from typing import Any

import torch

from prunus.errors import OptionError
from prunus.pruner.adapters.going_on import check_resumed
from prunus.pruner.pruner import Pruner


def lightning_callback(pruner: Pruner, *, minutes: float | None = None) -> Any:
    """Return a callback for ``Trainer(callbacks=[…])`` with one optimizer; its checkpoints hold the masks.

    With ``minutes`` the training ends when they are over, and masks change at equal times.

    Example:
        ``Trainer(max_steps=1000, callbacks=[lightning_callback(pruner)]).fit(module, loader)``
    """
    from lightning.pytorch import Callback

    class PrunerCallback(Callback):  # type: ignore[misc, unused-ignore]
        """Passes the trainer's events to the pruner."""

        def __init__(self) -> None:
            self.loss: torch.Tensor | None = None
            self.stepped = False

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Begin, or continue from the checkpoint that the trainer resumed."""
            steps = trainer.estimated_stepping_batches
            if minutes is None and not math.isfinite(steps):
                raise OptionError("the trainer has no end, and a schedule needs one; give it max_steps or max_epochs.")
            check_resumed(pruner, trainer.global_step, "the checkpoint holds no state of a pruner")
            pruner.train_begin(trainer.optimizers[0], None if minutes else int(steps), minutes=minutes)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            """Call the hook before a forward pass."""
            pruner.step_begin()

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
            """Note the loss."""
            self.loss = loss.detach()

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            """Call the hook before the optimizer, with unscaled gradients."""
            pruner.before_optimizer_step(self.loss)
            self.stepped = True

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Call the hook after the optimizer, if this batch was the last of a step."""
            if self.stepped:
                pruner.after_optimizer_step()
            self.stepped = False
            if pruner.out_of_time:
                trainer.should_stop = True

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """End the pruning."""
            pruner.train_end()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """Detach the pruner from the network."""
            pruner.detach()

        def state_dict(self) -> dict[str, Any]:
            """Return the masks for Lightning's checkpoint."""
            return {} if pruner.plans else pruner.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Continue from Lightning's checkpoint."""
            if state_dict:
                pruner.load_state_dict(state_dict)

    return PrunerCallback()
