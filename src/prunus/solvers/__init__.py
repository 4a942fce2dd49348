"""Layer solvers: a weight matrix W and the moment H of its inputs in, a mask and the best remaining weights out."""

from prunus.solvers.alps import alps
from prunus.solvers.consumers import Consumer
from prunus.solvers.exact_obs import exact_obs
from prunus.solvers.few_rows import WideConsumer
from prunus.solvers.obs_groups import Removal, remove_units
from prunus.solvers.osscar import Swapped, exchange_units
from prunus.solvers.patterns import EveryRow, NofM, Pattern, Tiles, Unstructured
from prunus.solvers.problem import Pruned, damped, reconstruction_error
from prunus.solvers.sparsegpt import sparsegpt
from prunus.solvers.support import refit
from prunus.solvers.wanda import wanda, wanda_scores

__all__ = [
    "Consumer",
    "EveryRow",
    "NofM",
    "Pattern",
    "Pruned",
    "Removal",
    "Swapped",
    "Tiles",
    "Unstructured",
    "WideConsumer",
    "alps",
    "damped",
    "exact_obs",
    "exchange_units",
    "reconstruction_error",
    "refit",
    "remove_units",
    "sparsegpt",
    "wanda",
    "wanda_scores",
]
