"""Score a unit by the Fisher information of a gate on it: how much its removal is to change the predictions."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.unit_criterion import UnitEvidence, collected, unit_rule


@unit_rule("fisher", needs=("fisher",), scale="loss")
def fisher(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the change of the predictions without it, no labels needed: s_u = ½ E[(∂ log p(y|x) / ∂γ_u)²].

    γ_u is a gate on the unit where consumers read it; y is drawn from the network's own p(y|x), for regression a
    Gaussian around f(x). Then KL(p_dense ‖ p_pruned) ≈ ½ (1−γ)ᵀ F (1−γ); the scores are its diagonal terms, in nats a
    prediction, comparable between axes. Draws depend on the seed and the sample alone, not on the order of the data.
    The task is a regression where targets are floating-point numbers or there is a single output; else outputs are
    logits.

    Source: Martens, "New insights and perspectives on the natural gradient method", arXiv:1412.1193 (the true Fisher);
    Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", arXiv:1801.05787 (its use to prune).

    Raises:
        OptionError: the evidence has no ``fisher``.
    """
    return collected(evidence, "fisher", "fisher")


@unit_rule("worst-class", needs=("worst_class",), scale="loss")
def worst_class(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the class whose loss its removal raises most: s_u = max_c ½ E_{samples of c}[(Σ a·∂ℓ/∂a)²].

    Pruning hurts rare and hard classes most; this score keeps a unit that a single class needs. Classes are the integer
    targets; all classes have the same weight, however few samples they have.

    Source: own; the observation: Hooker et al., "What Do Compressed Deep Neural Networks Forget?", arXiv:1911.05248.

    Raises:
        OptionError: the evidence has no ``worst_class``.
    """
    return collected(evidence, "worst_class", "worst-class")
