"""A briefly trained DigitsNet with its data: what pruning methods work on in tests."""

from __future__ import annotations

import functools
import warnings

import torch

from factories_analysis import analysis_of
from prunus.analysis import Analysis
from prunus.data.splits import Split, Splits
from prunus.experiments.workloads.digits import load_digits_splits
from prunus.experiments.workloads.digits_net import DigitsNet
from prunus.training import TrainingOptions, finetune_

SAMPLES = 64


@functools.cache
def digits() -> Splits:
    """Return the digits, calibration and selection shortened to what a test can afford."""
    whole = load_digits_splits()
    short = {}
    for name in ("calibration", "selection"):
        inputs, targets = next(iter(getattr(whole, name).batches(SAMPLES)))
        short[name] = Split(inputs, targets, name)
    return Splits(whole.train, short["calibration"], short["selection"], whole.test, whole.classes)


@functools.cache
def trained() -> DigitsNet:
    """Return a network that knows the digits a little; only to be read."""
    torch.manual_seed(0)
    model = DigitsNet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finetune_(model, digits().train, TrainingOptions(steps=12, lr=1e-2), seed=0)
    return model.eval()


def fresh_subject(*, seed: int = 0, held: frozenset[str] = frozenset(), forward: str = "keep") -> Analysis:
    """Analyse the trained network anew, with nothing remembered."""
    example = torch.zeros(2, 1, 8, 8)
    data = digits()
    return analysis_of(trained(), example, data.calibration, data.selection, seed=seed, held=held, forward=forward)
