"""Methods that prune while they train: the running training decides the plan, and its weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.errors import OptionError
from prunus.graph.capture import unwrap
from prunus.methods.masked_copy import masked_copy
from prunus.methods.method import METHODS, Learned, Lesson, Level, Method, Planning
from prunus.methods.reduction import whole
from prunus.methods.weights import maskable, weights_to_keep
from prunus.plans import Plan
from prunus.pruner import STRATEGIES, Pruner, PrunerOptions
from prunus.pruner.loop import train_pruning_
from prunus.pruner.structure import Structure
from prunus.pruner.teacher import Teacher
from prunus.recovery.method_names import AUTOPILOT
from prunus.training import TrainingOptions
from prunus.training.schedules import RAMP

STEPS = 30
"""Training steps on calibration data where only a plan is needed."""
LEARNING_RATE = 1e-3
_BATCH = 32


def while_training(name: str, level: Level, strategy: str, description: str) -> Planning:
    """Enrol a strategy of the pruner as a method.

    In a comparison it trains with the data, options and number of steps with which other methods recover. Where only a
    plan is needed, it trains a copy for a few steps on calibration data and drops its weights.
    """

    def teach(analysis: Analysis, limits: Limits, lesson: Lesson) -> Learned:
        return _taught(analysis, limits, lesson, strategy)

    def plan(analysis: Analysis, limits: Limits, method_options: Mapping[str, Any] | None = None) -> Plan:
        options = TrainingOptions(STEPS, LEARNING_RATE, _BATCH, loss=analysis.loss)
        lesson = Lesson(analysis.calibration, options, analysis.seed, method_options or {})
        return teach(analysis, limits, lesson).plan

    plan.__doc__ = description
    kind = STRATEGIES.get(strategy)
    documents = (f"{kind.__module__}:{kind.__qualname__}",)
    METHODS.register(name)(
        Method(name, level, plan, description, teach=teach, documents=documents, options=("method_options",))
    )
    return plan


def _taught(analysis: Analysis, limits: Limits, lesson: Lesson, strategy: str) -> Learned:
    model, _ = masked_copy(whole(analysis), {})
    if STRATEGIES.get(strategy).structural:
        # Removed units need a longer recovery than masked weights: half of the training follows the last cut.
        end = (lesson.options.steps + 1) // 2 if lesson.minutes is None else None
        ignore = _unmaskable(model, analysis) if STRATEGIES.get(strategy).masks_weights else ()
        options = PrunerOptions(
            analysis.kept(limits[0]), strategy, end_step=end, settings=lesson.settings, ignore=ignore
        )
        final = 0.5
        pruner = Pruner(model, options, structure=Structure.of(analysis), teacher=_teacher(analysis, lesson))
    else:
        pruner, final = _of_weights(model, analysis, limits, lesson, strategy), RAMP
    train_pruning_(
        model, lesson.data, lesson.options, pruner=pruner, seed=lesson.seed, minutes=lesson.minutes, final=final
    )
    return Learned(pruner.plan(analysis.coupling), model)


def _unmaskable(model: nn.Module, analysis: Analysis) -> tuple[str, ...]:
    weights = maskable(analysis)
    return tuple(name for name, _ in model.named_parameters() if name not in weights)


def _teacher(analysis: Analysis, lesson: Lesson) -> Teacher | None:
    """Return the dense network as teacher where the lesson distils, else None.

    Raises:
        OptionError: the lesson's method of recovery learns neither from labels nor from the dense network's outputs.
    """
    method = AUTOPILOT if lesson.recover is None else lesson.recover.method
    if method not in (AUTOPILOT, "finetune", "distil"):
        raise OptionError(
            f"recover.method is {method!r}, and a method that prunes while it trains learns from labels or from the "
            "dense network's outputs; allowed: finetune, distil, autopilot."
        )
    return Teacher(unwrap(analysis.model), lesson.recover) if lesson.recover and method == "distil" else None


def _of_weights(model: nn.Module, analysis: Analysis, limits: Limits, lesson: Lesson, strategy: str) -> Pruner:
    weights = maskable(analysis)
    share = weights_to_keep(analysis, weights, limits) / sum(weight.numel() for weight in weights.values())
    options = PrunerOptions(share, strategy, ignore=_unmaskable(model, analysis), settings=lesson.settings)
    return Pruner(model, options, teacher=_teacher(analysis, lesson))


incremental = while_training(
    "incremental", "weight", "gradual", "train, and drop the smallest weights along a cubic schedule"
)
dynamic_threshold = while_training(
    "dynamic-threshold",
    "weight",
    "dynamic-threshold",
    "train; a threshold per tensor follows the gradients, ×0.9 per bite",
)
gradient_threshold_moving = while_training(
    "gradient-threshold-moving",
    "weight",
    "gradient-threshold",
    "train; weights with E|g| below a threshold go, ×0.9 per pruning",
)
adaptive = while_training("adaptive", "weight", "adaptive", "train; prune on plateaus of the loss, hold while it rises")
rigl = while_training("rigl", "weight", "rigl", "train sparse: least |w| go, steepest |g| grow back (RigL)")
granet = while_training("granet", "weight", "granet", "train; cubic schedule with regrowth at every change (GraNet)")
movement = while_training("movement", "weight", "movement", "train; keep the weights that move away from zero")
fine_tuning_weights = while_training(
    "fine-tuning-weights", "weight", "fine-tuning-weights", "train in rounds; the rate of each is 0.9 of the last"
)
units_incremental = while_training(
    "units-incremental", "neuron", "units", "train, and drop units of least (w·E[g])² along a cubic schedule"
)
sensitivity_threshold = while_training(
    "sensitivity-threshold",
    "neuron",
    "sensitivity-threshold",
    "train; units with E[g²] below a threshold go, ×0.9 per pruning",
)
units_adaptive = while_training(
    "units-adaptive", "neuron", "units-adaptive", "train; drop units of least E[g²] on plateaus of the loss"
)
fine_tuning_units = while_training(
    "fine-tuning-units", "neuron", "fine-tuning-units", "train in rounds; units go at a rate that falls by 0.9"
)
group_lasso = while_training(
    "group-lasso", "neuron", "group-lasso", "train under group lasso, and drop the units that it leaves smallest"
)
growing_regularisation = while_training(
    "growing-regularisation", "neuron", "growing-regularisation", "train; a growing L2 presses on the units that go"
)
key_path_moving = while_training(
    "key-path-moving",
    "structure",
    "key-path",
    "train; branches beside the key path go, found anew from fresh gradients",
)
key_path_threshold = while_training(
    "key-path-threshold",
    "structure",
    "key-path-threshold",
    "train; branches with E|g| above a threshold are the key path, the others go",
)
key_path_adaptive = while_training(
    "key-path-adaptive", "structure", "key-path-adaptive", "train; drop branches on plateaus of the loss"
)
joint = while_training(
    "joint", "hierarchical", "joint", "train; branches, units and weights go in one schedule that shares the budget"
)
