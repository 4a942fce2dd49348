"""Non-negative least squares in relative error, exact, for a handful of columns."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def fit_times(amounts: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, float]:
    """Return w ≥ 0 and c ≥ 0 that minimise Σ ((amounts·w + c − seconds) / seconds)².

    The best solution is the least-squares solution of its own support, so with few columns every support is tried.

    Args:
        amounts: [sample, product], at most six products.
        seconds: [sample].

    Shapes: the weights are [product].
    """
    relative = 1.0 / np.maximum(seconds, 1e-9)
    scale = np.maximum(np.abs(amounts).max(axis=0, initial=0.0), 1e-300)
    columns = np.hstack([amounts / scale, np.ones((len(seconds), 1))]) * relative[:, None]
    gram, target = columns.T @ columns, columns.sum(axis=0)
    best, solution = 0.0, np.zeros(columns.shape[1])
    for size in range(1, columns.shape[1] + 1):
        for support in combinations(range(columns.shape[1]), size):
            index = np.ix_(support, support)
            values = np.linalg.lstsq(gram[index], target[list(support)], rcond=1e-10)[0]
            gain = float(values @ target[list(support)])
            if values.min() >= 0 and gain > best * (1 + 1e-9):
                best, solution = gain, np.zeros(columns.shape[1])
                solution[list(support)] = values
    return solution[:-1] / scale, float(solution[-1])
