"""Lightning: a ``Callback``."""

from __future__ import annotations

from typing import Any

import torch

from prunus.pruner.pruner import Pruner


def lightning_callback(pruner: Pruner) -> Any:
    """Return a callback for ``Trainer(callbacks=[…])`` with one optimizer; its checkpoints hold the masks.

    Example:
        ``Trainer(max_steps=1000, callbacks=[lightning_callback(pruner)]).fit(module, loader)``
    """
    from lightning.pytorch import Callback

    class PrunerCallback(Callback):  # type: ignore[misc, unused-ignore]
        """Hands the trainer's events to the pruner."""

        def __init__(self) -> None:
            self.loss: torch.Tensor | None = None
            self.stepped = False

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Begin."""
            pruner.train_begin(trainer.optimizers[0], int(trainer.estimated_stepping_batches))

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            """Before a forward pass."""
            pruner.step_begin()

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
            """Note the loss."""
            self.loss = loss.detach()

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            """Before the optimizer, gradients unscaled."""
            pruner.before_optimizer_step(self.loss)
            self.stepped = True

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """After the optimizer, where this batch was the last of a step."""
            if self.stepped:
                pruner.after_optimizer_step()
            self.stepped = False

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """End."""
            pruner.train_end()

        def state_dict(self) -> dict[str, Any]:
            """Return the masks for Lightning's checkpoint."""
            return {} if pruner.plans else pruner.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Go on from Lightning's checkpoint."""
            if state_dict:
                pruner.load_state_dict(state_dict)

    return PrunerCallback()
