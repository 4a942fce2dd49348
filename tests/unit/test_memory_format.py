"""No gradient is taken in the memory format in which oneDNN corrupts memory, whichever entry is called."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from factories_channels_last import ENTRIES, Functional, Narrow, network, pictures
from prunus.experiments.workloads import train as training
from prunus.experiments.workloads.glyphs.resnet import ResNet
from prunus.foundation import memory_format
from prunus.foundation.memory_format import (
    BLOCK,
    MemoryFormatWarning,
    hold_default_format_,
    release_format_,
    sound_gradients,
    unsafe_in_channels_last,
)

WIDE = "layer1.0.conv1.weight"
SCRIPT = Path(__file__).parents[1] / "factories_channels_last.py"
# oneDNN names the layout of the source, and of the problem channels, kernel and stride.
GRADIENT = re.compile(r"jit\w*_1x1:\w+,backward_weights,src:\w+:\w*:blocked:(\w+):.*ic(\d+)oc\d+_.*(?:kh1sh2|kw1sw2)")
x86 = pytest.mark.skipif(not memory_format.onednn_is_unsafe(), reason="the kernel is one of oneDNN's for x86")


@functools.cache
def logged(isa: str, *names: str) -> tuple[dict[str, list[str]], str]:
    """Return what oneDNN logged of each entry, called in a process of its own, and the errors of that process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ONEDNN_VERBOSE": "1"}
    environment.pop("ONEDNN_MAX_CPU_ISA", None)
    if isa:
        environment |= {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *names], capture_output=True, text=True, timeout=100, env=environment
    )
    parts = [part.splitlines() for part in done.stdout.split("entry:")[1:]]
    return {lines[0]: lines[1:] for lines in parts}, f"exit code {done.returncode}: {done.stderr[-2000:]}"


def layouts(lines: list[str]) -> list[str]:
    """Return the layouts in which the gradient of a strided pointwise layer with few inputs was taken."""
    found = [match for match in map(GRADIENT.search, lines) if match is not None]
    return [match[1] for match in found if int(match[2]) < BLOCK]


@x86
def test_what_oneDNN_logs_shows_the_fault_where_nothing_is_done() -> None:
    assert "acdb" in layouts(logged("", "unguarded")[0]["unguarded"])


@x86
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("isa", ["", "AVX2"], ids=["as it is", "AVX2"])
def test_no_entry_takes_the_gradient_with_the_channels_last_and_each_says_so_once(isa: str, name: str) -> None:
    entries, errors = logged(isa)
    lines = entries.get(name, [])
    assert lines, errors
    assert lines[-1].startswith("warned:"), errors
    found = layouts(lines)
    assert "acdb" not in found
    if name != "gradients of each sample":  # those of many samples are one grouped convolution
        assert found
        assert lines[-1] == f"warned:{2 if name == 'compare gradients' else 1}"  # that has two networks


def test_the_layers_are_those_with_a_stride_a_kernel_of_one_and_few_inputs() -> None:
    layers = nn.ModuleDict(
        {
            "unsafe": nn.Conv2d(BLOCK - 1, 4, 1, stride=(1, 2)),
            "line": nn.Conv1d(2, 4, 1, stride=2),
            "wide": nn.Conv2d(BLOCK, 4, 1, stride=2),
            "no stride": nn.Conv2d(4, 4, 1),
            "kernel": nn.Conv2d(4, 4, 3, stride=2),
            "groups": nn.Conv2d(4, 4, 1, stride=2, groups=2),
            "transposed": nn.ConvTranspose2d(4, 4, 1, stride=2),
            "lazy": nn.LazyConv2d(4, 1, stride=2),
            "linear": nn.Linear(4, 4),
        }
    )
    assert unsafe_in_channels_last(layers) == ["unsafe", "line"]


@x86
def test_gradients_are_those_of_the_default_format() -> None:
    x = pictures()
    for kind in (Narrow, Functional):
        model = network(kind)
        plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        plain(x.contiguous()).square().mean().backward()
        said = r"'down.weight' of \w+ has 6 input channels.*contiguous_format"
        with pytest.warns(MemoryFormatWarning, match=said), sound_gradients(model):
            model(x).square().mean().backward()
        for ours, wanted in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, wanted.grad)


@x86
def test_nothing_happens_in_the_default_format_without_gradients_and_to_sound_networks() -> None:
    seen: list[tuple[int, ...]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", MemoryFormatWarning)
        plain = Narrow()
        with sound_gradients(plain):
            plain(torch.randn(2, 3, 8, 8)).sum().backward()
        for model in (network(width=BLOCK), network()):
            model.down.register_forward_hook(lambda _, __, out: seen.append(out.stride()))
            with sound_gradients(model), torch.set_grad_enabled(model.down.in_channels == BLOCK):
                model(pictures(2))
    assert all(stride[1] == 1 for stride in seen)


@x86
def test_a_held_model_can_be_copied_stored_and_let_go() -> None:
    model = network()
    hold_default_format_(model)
    hold_default_format_(model)
    assert len(model.down._forward_pre_hooks) == 1
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for held in (model, *copies):
        with pytest.warns(MemoryFormatWarning, match="6 input channels"):
            held(pictures()).sum().backward()
        assert held.down.weight.stride() == (6, 1, 1, 1)
        release_format_(held)
        assert not held.down._forward_pre_hooks


@x86
def test_a_layer_that_torch_masks_is_held_too() -> None:
    model = network()
    l1_unstructured(model.down, "weight", 0.5)
    hold_default_format_(model)
    seen: list[Tensor] = []
    model.down.register_forward_hook(lambda layer, inputs, __: seen.extend((layer.weight, *inputs)))
    with pytest.warns(MemoryFormatWarning):
        model(pictures()).sum().backward()
    assert not any(map(memory_format._channels_last, seen))
    assert model.down.weight_orig.grad is not None


def test_a_workload_is_trained_with_its_channels_last_only_where_that_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    class Stop(Exception):
        pass

    def stop(model: nn.Module, *_: object, **__: object) -> None:
        seen.append(model.get_parameter(WIDE).stride(1) == 1)
        raise Stop

    monkeypatch.setattr(training, "finetune_", stop)
    run, _ = training._run("glyphs/resnet-8x", 0, None)
    data: Any = SimpleNamespace(train=range(100))
    for widths in ((16, 32, 48), (4, 4, 4)):
        with pytest.raises(Stop):
            training._train_(ResNet(widths, 1), data, run, None)
    assert seen == [True, False]
