"""Laws of checkpoints on random networks: save∘load and plan save∘load are identities, undo∘cut keeps what was kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from factories_networks import NetSpec
from factories_pruned import cut_at_random, same_bits, same_state
from prunus.exporters import load, origins, packed_size, save, undo
from prunus.exporters.pack import pack_tensors, unpack_tensors
from prunus.graph.interpreter import run
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.surgery.proving.verify import masked_tensors, reference_overrides
from prunus.surgery.tensors import slice_tensors

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SEEDS = st.integers(0, 10_000)
REWRITTEN = 412  # a network of which a cut rewrites forwards
MODES = st.sampled_from(("hybrid", "graph"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@QUICK
@given(seed=SEEDS, mode=MODES)
@example(seed=REWRITTEN, mode="hybrid")
def test_load_after_save_is_the_same_network(seed: int, mode: str) -> None:
    spec = NetSpec.random(seed)
    cut = cut_at_random(spec.build(), spec.inputs(), seed=seed, mode=mode, masked=(seed % 3) * 0.4)
    before = {n: t.clone() for n, t in cut.model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        place = save(cut, Path(folder) / "small")
        loaded = load(place, None if mode == "graph" else spec.build(seed=99))
        size = (place / "weights.safetensors").stat().st_size
        assert Plan.load(place) == cut.plan
    assert same_state(loaded, cut.model)
    assert packed_size(cut.model) == size
    assert all(same_bits(t, cut.model.state_dict()[n]) for n, t in before.items())
    with torch.no_grad():
        assert torch.equal(loaded(cut.inputs), cut.model(cut.inputs))
    ties = [{n for n, t in named_tensors(m).items() if t is p} for m in (loaded, cut.model) for p in m.parameters()]
    assert ties[: len(ties) // 2] == ties[len(ties) // 2 :]


@QUICK
@given(seed=SEEDS, mode=MODES)
@example(seed=REWRITTEN, mode="hybrid")
def test_undo_after_cut_is_the_original(seed: int, mode: str) -> None:
    spec = NetSpec.random(seed)
    cut = cut_at_random(spec.build(), spec.inputs(), seed=seed, mode=mode, masked=(seed % 2) * 0.5)
    assert same_state(undo(cut.model, cut.plan, cut.original), cut.original)


@QUICK
@given(seed=SEEDS)
def test_undo_keeps_what_training_made_of_the_kept_slices(seed: int) -> None:
    spec = NetSpec.random(seed)
    cut = cut_at_random(spec.build(), spec.inputs(), seed=seed)
    with torch.no_grad():
        for parameter in cut.model.parameters():
            parameter.add_(1.0)
    whole = undo(cut.model, cut.plan, cut.original)
    names = {n: t.detach() for n, t in named_tensors(whole).items() if n in cut.coupling.graph.tensors}
    again = slice_tensors(names, cut.coupling, cut.plan)
    small = named_tensors(cut.model)
    assert all(same_bits(value, small[name].detach()) for name, value in again.items())
    assert same_state(undo(cut.model, cut.plan, whole), whole)


@QUICK
@given(seed=SEEDS)
def test_origins_of_two_cuts_index_the_original(seed: int) -> None:
    spec = NetSpec.random(seed)
    first = cut_at_random(spec.build(), spec.inputs(), seed=seed)
    second = cut_at_random(first.model, spec.inputs(), seed=seed + 1)
    traced = origins([first.plan, second.plan])
    left = named_tensors(second.model)
    for name, tensor in named_tensors(first.original).items():
        if name in left and not name.startswith("_constant"):
            value = tensor.detach()
            for dim, index in traced.get(name, {}).items():
                value = value.index_select(dim, torch.from_numpy(index))
            if first.coupling.graph.aliases.get(name, name) == name:
                assert same_bits(value, left[name].detach()), name


@QUICK
@given(seed=SEEDS)
def test_undo_with_zeros_is_the_masked_original(seed: int) -> None:
    spec = NetSpec.random(seed)
    cut = cut_at_random(spec.build(), spec.inputs(), seed=seed, masked=0.3)
    whole = undo(cut.model, cut.plan, cut.original, fill="zero")
    graph = cut.coupling.graph
    named = named_tensors(cut.original)
    values = {n: named[n].detach() for n in graph.tensors if n in named} | dict(graph.constants)
    masked = masked_tensors(values, cut.coupling, cut.plan)
    held = named_tensors(whole)
    assert all(torch.equal(held[n].detach(), masked[n]) for n, i in graph.tensors.items() if i.kind != "constant")
    tensors = {n: t.detach() for n, t in held.items()} | dict(graph.constants)
    with torch.no_grad():
        found = run(graph, tensors, [cut.inputs], override=reference_overrides(cut.coupling, cut.plan))
        torch.testing.assert_close(found, cut.model(cut.inputs), rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(0, 40), max_size=3),
    density=st.sampled_from((0.0, 0.02, 0.3, 1.0)),
    dtype=st.sampled_from(
        (
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int8,
            torch.int64,
            torch.bool,
            torch.complex64,
        )
    ),
    seed=SEEDS,
)
def test_packing_keeps_every_bit(shape: list[int], density: float, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)
    tensor = (values * 100).to(dtype)
    if tensor.dtype.is_floating_point and tensor.numel() > 3:
        tensor.view(-1)[:3] = torch.tensor([float("nan"), -0.0, float("-inf")]).to(dtype)
    packed, metadata = pack_tensors({"a.b": tensor, "plain": torch.ones(2)})
    back = unpack_tensors(packed, metadata)
    assert same_bits(back["a.b"], tensor)
    assert same_bits(back["plain"], torch.ones(2))
    stored = sum(t.numel() * t.element_size() for t in packed.values()) - 8
    assert stored <= tensor.numel() * tensor.element_size()
