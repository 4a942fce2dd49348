"""Price against count on random plans, budgets against what was spent, and how long allocation takes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from .scales import recipe_for

Row = dict[str, Any]


OWN = ("digits", "glyphs/vgg", "glyphs/resnet", "glyphs/mobilenet", "glyphs/vit")
NETS = (*OWN, "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "densenet121")


def _net(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name in OWN:
        from prunus.experiments.workloads import WORKLOADS

        workload = WORKLOADS.get(name)
        return workload.build(0).eval(), workload.example_inputs()[0]
    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 64, 64)


def price_and_count(name: str) -> Row:
    """Allocate one network by every allocator and metric; count params and MACs of the cut network anew."""
    from prunus import analyse
    from prunus.budget import ALLOCATORS
    from prunus.cost.price import cost_model
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple
    from prunus.surgery.cut import cut_with_record

    model, x = _net(name)
    parent = analyse(model, x)
    plans = equal = over = 0
    for allocator in ALLOCATORS.names():
        for metric, share in (("params", 0.5), ("macs", 0.4), ("bytes", 0.3)):
            plan = parent.plan({metric: share}, allocator=allocator)
            small, _ = cut_with_record(model, parent.coupling, plan, x)
            counted = cost_model(couple(capture(small, x))).price()
            field = {"params": "params", "macs": "macs_forward", "bytes": "param_bytes"}[metric]
            plans += 1
            equal += counted == plan.after
            over += getattr(counted, field) > share * getattr(plan.before, field)
    return {"plans": plans, "price_is_count": equal, "over_budget": over}


def tree_seconds(leaves: int, levels: int) -> Row:
    """Solve one tree: blocks of 24 leaves each, every block may be dropped."""
    from prunus.budget.knapsack_tree import Group, Leaf, solve_tree

    generator = np.random.default_rng(0)
    made = [
        Leaf(str(i), np.sort(generator.integers(1000, 10**6, levels)), np.sort(generator.random(levels))[::-1])
        for i in range(leaves)
    ]
    blocks = tuple(Group(f"b{i}", tuple(made[i : i + 24]), (0, 3.0)) for i in range(0, leaves, 24))
    root = Group("network", blocks)
    start, cpu = time.perf_counter(), time.process_time()
    solution = solve_tree(root, sum(int(leaf.cost[-1]) for leaf in made) // 3)
    return {
        "nodes": leaves + len(blocks),
        "levels": levels,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "damage": float(solution.damage),
    }


def search_seconds(evaluations: int) -> Row:
    """Refine an allocation of a small network by its true loss."""
    from prunus.budget import allocate, parse_budget, unit_problem
    from prunus.budget.evolutionary_search import Search, refine
    from prunus.experiments.trained_model import trained_model
    from prunus.foundation.progress import Silent
    from prunus.methods.layer_wise import masked_loss
    from prunus.methods.scored_units import unit_scores

    parent = trained_model(recipe_for("glyphs/resnet", {"prune": {"budget": {"params": 0.5}}}), 0, Silent())
    analysis = parent.analysis
    limits = parse_budget({"params": 0.5}, analysis.cost.price())
    problem = unit_problem(analysis.cost, unit_scores(analysis, "magnitude"), limits)
    batches = list(parent.data.selection.batches(256))[:2]

    def loss(counts: Any) -> float:
        return masked_loss(analysis, problem.masks(counts), batches)

    begin = allocate(problem, "knapsack", loss=loss)
    start, cpu = time.perf_counter(), time.process_time()
    found = refine(problem, begin, loss, Search(evaluations=evaluations))
    return {
        "evaluations": evaluations,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "loss_rise_before": begin.true_damage,
        "loss_rise_after": found.true_damage,
        "ratio": found.ratio,
    }
