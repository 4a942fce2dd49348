"""What the solvers cost: one SparseGPT, and a whole ResNet with moments, OBS and measured levels."""

from __future__ import annotations

import multiprocessing
import time

import torch

from .networks import Row

GIB = 2**30


def sparsegpt_seconds(size: int = 1024) -> Row:
    """Prune one square layer to half of its weights."""
    from prunus.solvers import sparsegpt

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, size, generator=generator)
    inputs = torch.randn(2 * size, size, generator=generator).double()
    started, cpu = time.perf_counter(), time.process_time()
    found = sparsegpt(weight, inputs.T @ inputs / len(inputs), size * size // 2)
    return {
        "size": size,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "zeros": float((~found.mask).double().mean()),
    }


def whole_network(name: str, side: int, samples: int) -> Row:
    """Measure moments, order all units by OBS and measure all levels of a torchvision network, in its own process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_whole, (name, side, samples))


def _whole(name: str, side: int, samples: int) -> Row:
    from prunus.experiments.sources.vision_ops import import_torchvision
    from zoo.memory import peak_bytes

    import_torchvision()
    import torchvision

    from prunus.analysis import analyse
    from prunus.data.splits import Split
    from prunus.methods import METHODS

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.randn(samples, 3, side, side)
    split = Split(images, torch.zeros(samples, dtype=torch.int64), "calibration")
    started, cpu = time.perf_counter(), time.process_time()
    subject = analyse(model, (images[:2],), data=split, held_out=split).in_metric("macs")
    plan = METHODS.get("obs-units").plan(subject, subject.limits(0.5))
    return {
        "network": name,
        "side": side,
        "samples": samples,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": peak_bytes() / GIB,
        "macs": plan.after.macs_forward / plan.before.macs_forward,
    }
