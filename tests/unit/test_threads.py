"""Several threads prune at once, their own models and one that they share: as one after the other."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

import prunus
from prunus.foundation.turns import turn_on
from prunus.graph.capture import _put_back, _refill


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()


def together(work: list[Callable[[], None]]) -> list[BaseException]:
    failures: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
def test_threads_find_what_one_finds(shared: bool) -> None:
    x, one = torch.randn(2, 3, 8, 8), network()
    models = [one] * 4 if shared else [network() for _ in range(4)]
    alone = prunus.prune(network(), x, budget={"params": 0.5})
    found: list[prunus.Outcome] = []

    def prune(model: nn.Module) -> None:
        found.append(prunus.prune(model, x, budget={"params": 0.5}))

    assert together([functools.partial(prune, model) for model in models]) == []
    assert [outcome.plan == alone.plan for outcome in found] == [True] * 4
    assert all(outcome.check is not None and outcome.check.ok for outcome in found)
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(one(x), network()(x))
    assert prunus.prune(one, x, budget={"params": 0.5}).plan == alone.plan


def test_eight_threads_prune_eight_models_as_one_after_the_other() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    data = [(x, torch.tensor([0, 1]))] * 2

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6 + seed, 3), nn.BatchNorm2d(6 + seed), nn.ReLU(), nn.Flatten(), nn.Linear((6 + seed) * 36, 5)
        )

    def pruned(network: nn.Module) -> prunus.Outcome:
        return prunus.prune(network, x, budget={"params": 0.6}, data=data, criterion="taylor", repair="auto")

    serial = [pruned(model(seed)) for seed in range(8)]
    networks, found = [model(seed) for seed in range(8)], dict[int, prunus.Outcome]()

    def prune(seed: int) -> None:
        found[seed] = pruned(networks[seed])

    assert together([functools.partial(prune, seed) for seed in range(8)]) == []
    for seed, alone in enumerate(serial):
        assert found[seed].plan == alone.plan
        tensors = found[seed].model.state_dict()
        assert all(torch.equal(tensors[name], value) for name, value in alone.model.state_dict().items())


def test_a_capture_leaves_torch_and_calls_of_other_threads_alone() -> None:
    original = nn.Module.__call__
    inside, go_on = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if threading.current_thread() is worker:
                inside.set()
                assert go_on.wait(30)
            return x * 2

    model = nn.Sequential(nn.Linear(3, 3), Waits(), nn.Linear(3, 2))
    graphs: list[prunus.Graph] = []
    worker = threading.Thread(target=lambda: graphs.append(prunus.capture(model, torch.ones(1, 3), method="record")))
    expected = model(torch.ones(1, 3))
    worker.start()
    assert inside.wait(30)
    patched = nn.Module.__call__ is not original
    result, dtype = model(torch.ones(1, 3)), torch.zeros(1).dtype
    go_on.set()
    worker.join()
    assert not patched
    assert dtype is torch.float32
    assert type(result) is torch.Tensor
    assert torch.equal(result, expected)
    assert [call.path for call in graphs[0].calls] == ["", "0", "1", "2"]
    assert "_compiled_call_impl" not in vars(model)


class Counting(nn.Module):
    """Holds containers and a number that its forward changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3))
        self.seen: dict[str, int] = {}
        self.log: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[str(len(self.seen))] = 1
        self.log.append(1)
        return self.layers(x)


def counting() -> Counting:
    torch.manual_seed(0)
    return Counting().train()


def test_threads_take_turns_on_one_model_in_train_mode() -> None:
    """Modes, attributes and hooks of one model belong to one call at a time, and the results keep train mode."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    data = [(x, torch.tensor([0, 1, 2, 0]))] * 2
    options = {"budget": {"params": 0.6}, "data": data, "criterion": "taylor", "repair": "auto"}
    alone, shared, found = prunus.prune(counting(), x, **options), counting(), list[prunus.Outcome]()
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    failures = together([lambda: found.append(prunus.prune(shared, x, **options))] * 6)
    assert failures == []
    for outcome in found:
        assert outcome.plan == alone.plan
        assert [m.training for m in outcome.model.modules()] == [m.training for m in alone.model.modules()]
        tensors = outcome.model.state_dict()
        assert all(torch.equal(tensors[name], value) for name, value in alone.model.state_dict().items())
    assert all(module.training for module in shared.modules())
    assert all(torch.equal(before[name], value) for name, value in shared.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in shared.parameters())


def test_calls_on_one_model_follow_each_other_and_others_do_not_wait() -> None:
    one, other, inside, most = network(), network(), dict[int, int](), dict[int, int]()
    met = threading.Barrier(2, timeout=30)

    def work(model: nn.Module, both: bool) -> None:
        with turn_on([model]):
            inside[id(model)] = inside.get(id(model), 0) + 1
            most[id(model)] = max(most.get(id(model), 0), inside[id(model)])
            if both:
                met.wait()  # each is in its block
            time.sleep(0.02)
            inside[id(model)] -= 1

    assert together([functools.partial(work, one, False)] * 4) == []
    assert most[id(one)] == 1
    assert together([functools.partial(work, model, True) for model in (one, other)]) == []
    assert together([functools.partial(_in_turn, *pair) for pair in ((one, other), (other, one)) * 20]) == []


def _in_turn(*models: nn.Module) -> None:
    with turn_on(models):
        time.sleep(0.001)


class NeverEmpty(dict[str, object]):
    """Attributes as another thread may read them at any moment."""

    def clear(self) -> None:
        raise AssertionError("emptied")


def test_attributes_that_did_not_change_are_there_all_the_time() -> None:
    content = [1, 2]
    own = NeverEmpty(training=False, layers=content, made=1)
    _put_back(own, {"training": True, "layers": content})
    assert own == {"training": True, "layers": content}
    hooks = NeverEmpty(a=content)
    _refill(hooks, {"a": content})
    with pytest.raises(AssertionError, match="emptied"):
        _refill(hooks, {"a": [1, 2]})  # an object that only looks the same
