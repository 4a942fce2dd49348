"""Shared by all tests: this file's folder goes on the import path for the factories in it; torch keeps to one thread."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
