"""Shared by all tests: the factories in this folder can be imported, and torch keeps to one thread."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
