"""`Pruner`: five hooks that prune a network while the user's own loop trains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from prunus.errors import UsageError
from prunus.foundation.arguments import door
from prunus.foundation.clock import TimeLimit
from prunus.foundation.memory_format import hold_default_format_, release_format_
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.outcome import Outcome
from prunus.plans import Plan
from prunus.pruner.cutting import check_alone, check_cut, transplant_
from prunus.pruner.distributed import agree_, average_
from prunus.pruner.log_sinks import Log
from prunus.pruner.mask_state import first_masks, plan_of, restore_scene, scene_state
from prunus.pruner.optimizer_hooks import called_around_steps
from prunus.pruner.options import Clock, Moment, PrunerOptions, PrunerReport, options_of
from prunus.pruner.prunable_weights import check_trained, weights_of
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, strategy_of
from prunus.pruner.structure import Structure, structure_of
from prunus.pruner.teacher import Teacher, check_same_teacher, teacher_of
from prunus.pruner.timed_clock import TimedClock, clock_of, clock_state, stored_clock
from prunus.surgery.tensors import sliced_masks
from prunus.training.losses import Loss, loss_function
from prunus.training.mask_holder import MaskHolder
from prunus.training.schedules import RAMP

_MARK = "_prunus_attached"


class Pruner:
    """Prunes a network while it trains.

    The loop calls five hooks, or an adapter of `prunus.pruner.adapters` calls them for it::

        pruner.train_begin(optimizer, total_steps=1000)
        for inputs, targets in batches:
            pruner.step_begin()
            loss = criterion(model(inputs), targets)
            loss.backward()
            pruner.before_optimizer_step(loss)
            optimizer.step()
            pruner.after_optimizer_step()
            optimizer.zero_grad()
        pruner.train_end()

    Between two calls of ``step_begin`` the masks do not change. Masked weights are exactly zero in every forward pass
    and in the end, whatever the optimizer does. With gradient scaling, unscale the gradients before the third hook.

    Args:
        model: the network; parallel and compile wrappers around it are removed.
        options: how to prune, or a mapping of its fields.
        example_inputs: one call of the network; needed where units or branches are removed.
        log: called with (name, value, step) at every change of the masks: see `prunus.pruner.log_sinks`.
        averages: averages of the network (EMA, SWA) that are cut together with it.
        prove: compare the cut network with the masked one before the training continues with it.
        structure: the analysed structure of the network, in place of ``example_inputs``.
        masks: parameter name → mask (True = keep) of the weights that are masked from the beginning.
        teacher: a trained network with the same outputs, from which `loss` learns; it is not changed.
        temperature, soft: T of the softened outputs, and the weight of the teacher in the loss; labels have the rest.
        labels_loss: the loss of the labels in `loss`: a name, or (output, targets) → one number.

    Raises:
        OptionError: unknown names or settings, values outside their range, no example inputs where they are needed.
        SelectorError: ``ignore`` matches nothing.
        CaptureError: units or branches are to be removed, and the network cannot be captured.
    """

    @door("Pruner")
    def __init__(
        self,
        model: nn.Module,
        options: PrunerOptions | Mapping[str, Any],
        *,
        example_inputs: Any = None,
        log: Log | None = None,
        averages: Sequence[nn.Module] = (),
        prove: bool = True,
        structure: Structure | None = None,
        masks: Masks | None = None,
        teacher: nn.Module | Teacher | None = None,
        temperature: float = 2.0,
        soft: float = 0.9,
        labels_loss: Loss = "cross_entropy",
    ) -> None:
        self.options = options if isinstance(options, PrunerOptions) else options_of(options)
        self.model = unwrap(model)
        kind = STRATEGIES.get(self.options.method)
        self._schedule = self.options.schedule or kind.schedule
        self._log, self._averages, self._prove = log, tuple(averages), prove
        self._parallel = any(isinstance(m, nn.parallel.DistributedDataParallel) for m in model.modules())
        check_cut(self.options, kind.structural, self._parallel)
        if kind.structural and structure is None:
            structure = structure_of(
                self.model,
                example_inputs,
                metric=self.options.metric,
                ignore=self.options.ignore,
                config_ties=self.options.config_ties,
            )
        self._scene = Scene(
            self.model,
            self.options,
            weights_of(self.model, self.options.ignore),
            structure=structure if kind.structural else None,
        )
        self._scene.masks = first_masks(self._scene, masks)
        self._strategy = strategy_of(self._scene)
        self._labels_loss = loss_function(labels_loss)
        self.teacher = teacher_of(teacher, self.model, temperature=temperature, soft=soft, loss=labels_loss)
        self._holder = MaskHolder()
        self._clock: Clock | None = None
        self._restored = False
        self._optimizer: Optimizer | None = None
        self._loss: float | None = None
        self.plans: list[Plan] = []
        """The cuts made so far, each in the indices of the network before it."""
        self.outcomes: list[Outcome] = []
        """The same cuts with surgery and proof; each can be saved, and its ``analysis`` is that of the cut network."""

    @property
    def masks(self) -> Masks:
        """Parameter name → mask (True = keep) of every parameter that is masked now."""
        return dict(self._scene.masks)

    @property
    def follows_loss(self) -> bool:
        """Return whether the strategy needs the loss of every step."""
        return self._strategy.needs_loss

    @property
    def step(self) -> int:
        """The number of optimizer steps seen."""
        return self._clock.step if self._clock else 0

    @property
    def out_of_time(self) -> bool:
        """True if the minutes of the training are over; never for a training of steps."""
        return isinstance(self._clock, TimedClock) and self._clock.limit.over

    @property
    def kept(self) -> float:
        """The share that is kept now, of the same whole as ``options.kept``."""
        scene = self._scene
        if scene.structure is None:
            return scene.kept_count() / sum(w.numel() for w in scene.weights.values())
        return scene.structure.share

    def train_begin(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        *,
        minutes: float | TimeLimit | None = None,
        final: float = RAMP,
    ) -> None:
        """Begin a training of ``total_steps`` optimizer steps, or of ``minutes``, at equal parts of which masks change.

        A loop with minutes ends by `out_of_time`; the final level holds from the share ``final`` of them on.

        Raises:
            UsageError: a pruner is attached to this network already, or the optimizer holds none of its weights.
            OptionError: the schedule ends after the training, or a stored training had another length.
            BudgetError: the final level cannot be reached.
        """
        if getattr(self.model, _MARK, None) == id(self.model):
            raise UsageError(
                f"A pruner is attached to this {type(self.model).__name__} already; call its train_end, or detach "
                "after a loop that failed, and use one pruner for one training."
            )
        clock = clock_of(self.options, self._schedule, total_steps, minutes, final, self._strategy.changes)
        check_trained(optimizer, self._scene.weights, type(self.model).__name__)
        if self._restored and self._clock is not None:
            clock.go_on_from(self._clock)
        self._strategy.check()
        self._clock, self._optimizer, self._restored = clock, optimizer, False
        self._attach()
        self._set(self._scene.masks)

    def step_begin(self) -> None:
        """Change the masks if the schedule says so; call it before the forward pass of a step."""
        clock = self._running()
        if clock.due():
            self._update(clock)

    def before_optimizer_step(self, loss: torch.Tensor | float | None = None) -> None:
        """Read the gradients; call it between backward pass and optimizer. Only ``adaptive`` needs the loss."""
        clock = self._running()
        if loss is not None:
            self.tell(loss)
        self._strategy.observe(self._moment(clock))
        self._holder.zero_gradients_()

    def tell(self, loss: torch.Tensor | float) -> None:
        """Report the loss of a step where the loop does not call the hooks itself."""
        if self._strategy.needs_loss:
            self._loss = float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss)

    def loss(self, output: Any, targets: torch.Tensor | None, inputs: Any) -> torch.Tensor:
        """Return the loss of a batch: that of the labels, and the distance to the teacher's outputs where there is one.

        L = (1 − soft)·L_labels + soft·T²·KL(teacher ‖ network). Without targets the teacher alone counts.

        Args:
            output: what the network returned.
            targets: the labels, or None.
            inputs: what the network was called with; the teacher is called with the same.

        Raises:
            ModelError: the teacher's outputs have another shape.
            UsageError: no targets and no teacher.
        """
        if self.teacher is not None:
            value = self.teacher.loss(output, targets, inputs)
        elif targets is not None:
            value = self._labels_loss(output, targets)
        else:
            raise UsageError("loss got no targets, and the pruner has no teacher; give one of them.")
        self.tell(value)
        return value

    def after_optimizer_step(self) -> None:
        """Set masked weights to zero again; call it after the optimizer."""
        clock = self._running()
        self._strategy.after_step(self._moment(clock))
        self._holder.zero_weights_()
        clock.advance()

    def train_end(self) -> PrunerReport:
        """End the training: the network keeps its zeros, and another pruner may be attached."""
        clock = self._running()
        if clock.overdue:
            self._update(clock)
        report = PrunerReport(clock.step, self.kept, clock.done)
        self.detach()
        return report

    def detach(self) -> None:
        """Detach from network and optimizer without ending the schedule, for a loop that failed."""
        self.model.__dict__.pop(_MARK, None)
        release_format_(self.model)
        self._optimizer = None

    @contextmanager
    def attached(
        self, optimizer: Optimizer, total_steps: int | None = None, *, minutes: float | None = None
    ) -> Iterator[Pruner]:
        """Call the five hooks around every ``optimizer.step()`` inside a ``with`` block; the loop stays as it is.

        Masks change right after a step instead of right before the next, which no forward pass can tell apart. Steps
        that a gradient scaler skips do not count.

        Args:
            optimizer: it trains the network; its step hooks are used, and removed at the end.
            total_steps, minutes: the number of optimizer steps to come, or the time; see `train_begin`.

        Example:
            ``with pruner.attached(optimizer, total_steps=1000): train(model, optimizer)``
        """

        self.train_begin(optimizer, total_steps, minutes=minutes)
        after = (self.after_optimizer_step, self.step_begin)
        try:
            with called_around_steps(optimizer, self.before_optimizer_step, after):
                self.step_begin()
                yield self
                self.train_end()
        finally:
            self.detach()

    def plan(self, coupling: Coupling | None = None) -> Plan:
        """Return the plan of the present masks, in the indices of the present network.

        Args:
            coupling: the coupling of the network; needed where only weights are masked.

        Raises:
            UsageError: only weights are masked, and no coupling is given.
        """
        return plan_of(self._scene, coupling)

    def cut_(self) -> Plan:
        """Remove masked units and branches for good: network, optimizer and averages change in place.

        Returns:
            The plan by which it was cut.

        Raises:
            UsageError: the method masks weights, nothing is masked, or an optimizer's state cannot follow.
            VerifyError: the cut network differs from the masked one; nothing was changed.
        """
        scene = self._scene
        if scene.structure is None:
            raise UsageError(
                f"method {self.options.method!r} masks single weights, so there are no units to cut; use prunus.shrink."
            )
        check_alone(self._parallel)
        plan = self.plan()
        if plan.is_empty:
            raise UsageError("nothing is masked yet; train until the schedule has begun.")
        cut = transplant_(self.model, plan, scene.structure, self._optimizer, self._averages, prove=self._prove)
        coverage = scene.structure.coupling.coverage()
        if self._optimizer is not None:
            self._attach()
        self._restored = False
        self.plans.append(plan)
        scene.structure = scene.structure.after_cut(self.model, scene.structure.example_inputs, self.options.ignore)
        self.outcomes.append(
            Outcome(
                model=self.model,
                plan=plan,
                check=cut.check,
                coverage=coverage,
                surgery=cut.surgery,
                example_inputs=scene.structure.example_inputs,
                analysis=scene.structure.analysis,
            )
        )
        scene.weights = dict(self.model.named_parameters())
        self._strategy.forget()
        scene.structure.masked = sliced_masks(plan)
        self._set(scene.structure.masks(self.model) if scene.structure.masked else {})
        return plan

    def settle_(self) -> None:
        """Average the statistics over all processes; each process calls it before process 0 stores them."""
        average_(self._strategy.evidence())

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, besides model and optimizer: tensors, numbers and texts in a nest.

        Raises:
            UsageError: the network was cut; a checkpoint then needs its plan, see `prunus.save`.
        """
        if self.plans:
            raise UsageError("the network was cut while it trained; store it with prunus.save, or cut at the end.")
        taught = self.teacher.describe() if self.teacher else None
        own = {"strategy": self._strategy.state(), "teacher": taught}
        return {**clock_state(self._clock or Clock()), **scene_state(self._scene), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a stored state; call it before ``train_begin``.

        Raises:
            OptionError: the state was made with other options, for another network, or with another teacher.
            UsageError: the training is running.
        """
        if self._optimizer is not None:
            raise UsageError("the training is running; load a state before train_begin.")
        check_same_teacher(state.get("teacher"), self.teacher)
        restore_scene(self._scene, state)
        self._strategy.restore(state["strategy"])
        self._clock = stored_clock(state)
        self._restored = True

    def _attach(self) -> None:
        hold_default_format_(self.model)  # pruning makes widths that are unsafe with the channels last
        object.__setattr__(self.model, _MARK, id(self.model))  # a copy has the attribute, but another identity

    def _moment(self, clock: Clock) -> Moment:
        assert self._optimizer is not None
        return clock.moment(self._loss, float(self._optimizer.param_groups[0]["lr"]))

    def _running(self) -> Clock:
        if self._clock is None or self._optimizer is None:
            raise UsageError("the pruner's training has not begun; call train_begin(optimizer, total_steps) first.")
        return self._clock

    def _update(self, clock: Clock) -> None:
        self.settle_()
        masks = self._strategy.update(self._moment(clock))
        clock.updated()
        if masks is not None:
            self._set(masks)
        if clock.done and self.options.cut == "final" and not self.plan().is_empty:
            self.cut_()
        if self._log is not None:
            self._log("prunus/kept", self.kept, clock.step)
            self._log("prunus/masked", float(sum(int((~m).sum()) for m in self._scene.masks.values())), clock.step)

    def _set(self, masks: Masks) -> None:
        """Set masks: masked weights become zero and lose their optimizer state, so that they may return clean."""
        agree_(masks.values())
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self._scene.masks = masks
        self._holder.hold(parameters, masks)
        self._holder.zero_weights_()
        if self._optimizer is not None:
            self._holder.forget_(self._optimizer)
