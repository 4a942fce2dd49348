"""Two processes over gloo: the same masks and cuts on both, and those of one process with the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from factories_training import blocks, samples
from prunus.errors import UsageError
from prunus.pruner import Pruner
from prunus.pruner.checkpoint import read_state, write_state

STEPS, BATCH = 10, 16
RECIPES: dict[str, dict[str, Any]] = {
    "gradual": {"kept": 0.4, "criterion": "importance", "every": 2},
    "adaptive": {"kept": 0.4, "method": "adaptive", "every": 2},
    "rigl": {"kept": 0.4, "method": "rigl", "every": 2},
    "units": {"kept": 0.5, "method": "units", "every": 2},
    "key-path": {"kept": 0.6, "method": "key-path", "every": 2},
}
CUT = ("units", "key-path")

CHILD = """
    import sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    from test_pruner_processes import RECIPES, run
    rank = torch.distributed.get_rank()
    for name in RECIPES:
        run(name, rank, 2, Path(sys.argv[1]) / f"{name}-{rank}")
    torch.distributed.destroy_process_group()
"""


def network() -> nn.Sequential:
    """Return a network without batch norms: their statistics belong to one process."""
    model = blocks()
    for block in model[2:5]:
        block.norm = nn.LayerNorm(12)
    return model.double()


def run(name: str, rank: int, processes: int, path: Path) -> None:
    """Train one process's share of every batch, in DistributedDataParallel where there are several, and store it."""
    model, data = network(), samples()
    parallel = nn.parallel.DistributedDataParallel(model) if processes > 1 else model
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05, momentum=0.9)
    pruner = Pruner(parallel, RECIPES[name], example_inputs=data.inputs[:4].double())
    pruner.train_begin(optimizer, STEPS)
    for step in range(STEPS):
        pruner.step_begin()
        rows = torch.arange(BATCH)[rank::processes] + BATCH * (step % 8)
        loss = nn.functional.cross_entropy(parallel(data.inputs[rows].double()), data.targets[rows])
        torch.autograd.backward(loss)
        pruner.before_optimizer_step(loss)
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    pruner.train_end()
    masks = pruner.masks
    if name in CUT:
        # A wrapped network cannot be cut; without the wrapper it can.
        bare = Pruner(model, RECIPES[name], example_inputs=data.inputs[:4].double())
        bare.load_state_dict(pruner.state_dict())
        plan = bare.cut_()
        assert sum(p.numel() for p in model.parameters()) == plan.after.params < plan.before.params
    write_state(path, {"masks": masks, "weights": dict(model.named_parameters())})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    script = place / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, str(place)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_decide_as_one(name: str, folder: Path) -> None:
    first, second = (read_state(folder / f"{name}-{rank}") for rank in (0, 1))
    run(name, 0, 1, folder / "alone")
    alone = read_state(folder / "alone")
    assert alone["masks"]
    assert not all(mask.all() for mask in alone["masks"].values())
    for other in (first, second):
        assert other["masks"].keys() == alone["masks"].keys()
        assert all(torch.equal(mask, alone["masks"][key]) for key, mask in other["masks"].items())
        for key, weight in other["weights"].items():
            assert torch.equal(weight, first["weights"][key])
            torch.testing.assert_close(weight, alone["weights"][key], rtol=1e-9, atol=1e-12)


def test_a_network_inside_a_parallel_wrapper_is_not_cut(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        model, recipe = nn.parallel.DistributedDataParallel(network()), {**RECIPES["units"], "cut": "final"}
        with pytest.raises(UsageError, match="inside DistributedDataParallel cannot be cut"):
            Pruner(model, recipe, example_inputs=samples().inputs[:4].double())
    finally:
        torch.distributed.destroy_process_group()
