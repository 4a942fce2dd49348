"""The shipped suites of methods, rules, repairs and exporters find every broken promise: one broken member for each."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factories_suites import Broken, check_broken, check_covered
from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limits
from prunus.errors import OptionError
from prunus.exporters import EXPORTERS, Exporter
from prunus.exporters.parts import parts
from prunus.graph.ir import Node
from prunus.graph.rules import Flow
from prunus.methods import METHODS, Method
from prunus.plans import UNPRICED, Decision, Plan
from prunus.repairs import REPAIRS
from prunus.repairs.refold import Fit, refold
from prunus.testing import exporter_suite, method_suite, repair_suite, rule_suite
from prunus.testing.exporters import ExporterSuite
from prunus.testing.methods import MethodSuite
from prunus.testing.repairs import RepairSuite
from prunus.testing.rules import RuleSuite
from prunus.testing.schedules import ScheduleSuite
from prunus.testing.suite import suite_for

counter = itertools.count()
GOOD, MASKS = METHODS.get("magnitude"), METHODS.get("importance")


def but(change: Callable[[Analysis, Plan], Any], good: Method = GOOD, **more: Any) -> Method:
    """Return a method that spoils the plans of a good one."""
    return replace(good, plan=lambda subject, limits: change(subject, good.plan(subject, limits)), **more)


def at(share: Callable[[float], float]) -> Method:
    """Return a good method that is asked for another share than was given."""
    return replace(
        GOOD, plan=lambda subject, limits: GOOD.plan(subject, subject.limits(share(subject.kept(limits[0]))))
    )


def trained(subject: Analysis, plan: Plan) -> Plan:
    with torch.no_grad():
        next(subject.model.parameters()).add_(1)
    return plan


def unheld(subject: Analysis, limits: Limits, good: Method) -> Plan:
    return good.plan(replace(subject, held=frozenset()), limits)


def wavering(subject: Analysis, plan: Plan) -> Plan:
    axis = next(iter(plan.axes))
    keep = {**plan.axes, axis: np.roll(plan.axes[axis], next(counter))}
    return make_plan(subject.coupling, keep, decisions=plan.decisions, cost=subject.cost)


METHOD_CASES: list[Broken] = [
    ("test_its_record_is_sound", replace(GOOD, level="layer"), "its level is unknown; got 'layer', allowed: weight, n"),
    ("test_its_record_is_sound", replace(GOOD, description=""), "its description is not one line; got '', allowed: on"),
    ("test_the_budget_holds", at(lambda kept: kept + 0.02), r"the budget of 50% of the parameters is broken; got \d"),
    ("test_the_budget_holds", but(lambda s, p: None), "makes no plan .*; got NoneType, allowed: a Plan"),
    ("test_the_budget_holds", but(lambda s, p: 1 // 0), "makes no plan that keeps 50% of the parameters; got ZeroDivi"),
    ("test_the_budget_holds", but(lambda s, p: replace(p, after=UNPRICED)), "its plan has no price; got no counts"),
    ("test_the_budget_is_used", at(lambda kept: 0.8 * kept), r"the budget of 50% of the parameters is not used; got"),
    (
        "test_a_budget_of_macs_holds_and_is_used",
        replace(GOOD, plan=lambda s, to: GOOD.plan(s, replace(s, metric="params").limits(s.kept(to[0])))),
        r"the budget of half the MACs is missed; got [\d,]+,",
    ),
    (
        "test_a_budget_of_macs_holds_and_is_used",
        but(lambda s, p: replace(p, masks={"head.weight": np.zeros((10, 320), bool)})),
        r"it masks weights, .*; got \['head.weight'\], allowed: no masks",
    ),
    ("test_less_budget_keeps_less", at(lambda kept: 0.5), r"30% of the parameters keeps no fewer than 50%; got"),
    ("test_the_cut_is_proved", but(lambda s, p: replace(p, fingerprint="0" * 64)), "cannot be applied; got PlanError:"),
    ("test_the_cut_is_proved", but(lambda s, p: replace(p, after=p.before)), "the price in its plan at 50% .* is not"),
    ("test_its_plan_belongs_to_the_network", but(lambda s, p: replace(p, before=p.after)), "before is not the price o"),
    ("test_its_plan_belongs_to_the_network", but(lambda s, p: make_plan(s.coupling, {})), "nothing goes at 50%; got a"),
    ("test_plans_tell_why", but(lambda s, p: replace(p, decisions=())), "its plan at 50% has no decisions; got none"),
    ("test_plans_tell_why", but(lambda s, p: replace(p, decisions=(Decision("a", "unit", 0, 3, "x"),))), "says nothin"),
    ("test_the_same_again", but(wavering), "the same seed gives another plan; got a difference, allowed: equal plans"),
    ("test_the_model_stays", but(trained), "it changes the model; got values of 'stem.conv.weight', allowed: no chang"),
    ("test_held_axes_stay", replace(GOOD, plan=lambda s, to: unheld(s, to, GOOD)), r"an axis that is held; got \["),
    ("test_held_axes_stay", replace(MASKS, plan=lambda s, to: unheld(s, to, MASKS)), "masks weights on an axis th"),
    ("test_a_budget_out_of_reach_is_refused", at(lambda kept: max(kept, 0.2)), "0.0001 % is not refused; got Plan and"),
]


@torch.library.custom_op("prunustests::turned", mutates_args=())
def turned(x: Tensor) -> Tensor:
    """Turn the last dim round: what is unit 0 on one side is the last one on the other."""
    return x.flip(-1)


@turned.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Turning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.b(turned(torch.tanh(self.a(x))))
        return answer


class Watched(Turning):
    last: Turning

    def __init__(self) -> None:
        super().__init__()
        Watched.last = self


def same(flow: Flow, node: Node) -> list[Any]:
    return [tuple(flow.dims(node.args["x"]))]


def frozen(flow: Flow, node: Node) -> list[Any]:
    flow.freeze(flow.dims(node.args["x"])[-1], "turned")
    return same(flow, node)


def shorter(flow: Flow, node: Node) -> list[Any]:
    return [tuple(flow.dims(node.args["x"])[:-1])]


def growing(flow: Flow, node: Node) -> list[Any]:
    with torch.no_grad():
        Watched.last.a.weight.add_(1)
    return same(flow, node)


OP = "prunustests.turned"
RULE_CASES: list[Broken] = [
    ("test_the_op_is_in_the_program", ("prunustests.other", Turning, same), "does not run this op; got linear, prunus"),
    ("test_it_is_found", (OP, Turning, None), "no rule is found for the op; got none, allowed: one"),
    ("test_it_meets_no_conflict", (OP, Turning, shorter), "does not fit the op; got conflict in prunustests.turned"),
    ("test_it_meets_no_conflict", (OP, Turning, lambda f, n: 1 // 0), "cannot be analysed; got ZeroDivisionError"),
    ("test_units_can_go", (OP, Turning, frozen), "no axis that reaches the op is removable; got frozen: .*turned"),
    ("test_every_axis_alone_is_cut_exactly", (OP, Turning, same), "computes something else with half of axis 'a:out'"),
    ("test_all_axes_together_are_cut_exactly", (OP, Turning, same), "computes something else with random units of 1 a"),
    ("test_the_model_stays", (OP, Watched, growing), "analysing changes the model; got values of 'a.weight', allowed"),
]


def refitted(change: Callable[[Tensor], Tensor], masked: bool = True) -> Any:
    def layer(site: Any, matrix: Any, bias: Any, fit: Any, check: Any, shifts: bool, mask: Any) -> Fit:
        found = refold(matrix, bias, fit, check, shifts=shifts, mask=mask if masked else None)
        return replace(found, matrix=change(found.matrix))

    return replace(REPAIRS.get("refold"), name="broken", layer=layer, description="broken on purpose")


REPAIR_CASES: list[Broken] = [
    ("test_its_record_is_sound", replace(REPAIRS.get("refold"), name="broken", description="a\nb"), "is not one line"),
    ("test_it_is_not_taken_back", refitted(torch.zeros_like), "taken back, .* got repair: none, .*taken back, for it"),
    ("test_it_is_not_taken_back", refitted(lambda w: w / 0), "got DataError: layer 'batch_norm_[01]' reads or answers"),
    ("test_it_is_not_taken_back", refitted(lambda w: w[:, :1]), "it fails on a cut convolutional network; got Runtime"),
    ("test_new_samples_come_closer", refitted(torch.zeros_like), "on new samples the outputs do not come closer .*; g"),
    ("test_masked_weights_stay_zero", refitted(lambda w: w, masked=False), r"come back; got \d+ of \d+, allowed: none"),
    ("test_the_same_again", refitted(lambda w: w + 1e-4 * torch.rand_like(w)), "the same seed gives other weights; go"),
]

KEPT = EXPORTERS.get("checkpoint")


def writing(name: str = "broken", **changes: Any) -> Exporter:
    return replace(KEPT, **{"name": name, "takes": (), **changes})


def elsewhere(result: Any, path: Path | str) -> Path:
    return KEPT.write(result, path) / "plan.json"


def nothing(result: Any, path: Path | str) -> Path:
    parts(result)
    return Path(path)


def untidy(result: Any, path: Path | str) -> Path:
    Path(path).with_suffix(".log").write_text("saved")
    return KEPT.write(result, path)


def adding(result: Any, path: Path | str) -> Path:
    model, _, _ = parts(result)
    values = [float(p.detach().sum()) for p in model.parameters()]
    Path(path).mkdir(exist_ok=True)
    with (Path(path) / "values.json").open("a") as stream:
        json.dump(values, stream)
    return Path(path)


def planned(result: Any, path: Path | str) -> Path:
    parts(result)[1].save(Path(path))
    return Path(path)


def halved(result: Any, path: Path | str) -> Path:
    result.model.half()
    return KEPT.write(result, path)


def renamed(result: Any, path: Path | str) -> Path:
    result.plan.settings["name"] = "mine"
    return KEPT.write(result, path)


def careless(result: Any, path: Path | str) -> Path:
    model = getattr(result, "model", result)
    torch.save(model.state_dict(), path)
    return Path(path)


def zeroed(path: Path, model: nn.Module | None) -> nn.Module:
    assert KEPT.read is not None
    found = KEPT.read(path, model)
    nn.init.zeros_(found.head.weight)  # type: ignore[arg-type,union-attr]
    return found


EXPORTER_CASES: list[Broken] = [
    ("test_its_record_is_sound", writing(description=" "), "its description is not one line; got ' ', allowed: one li"),
    ("test_something_is_written_where_it_was_asked_for", writing(write=elsewhere), "returns another path; got PosixPa"),
    ("test_something_is_written_where_it_was_asked_for", writing(write=nothing), "nothing is written; got no file, or"),
    ("test_something_is_written_where_it_was_asked_for", writing(write=untidy), r"beside the path; got \['small.log'"),
    ("test_something_is_written_where_it_was_asked_for", writing(write=lambda r, p: p.no), "got AttributeError: 'Posi"),
    ("test_an_older_one_is_replaced", writing(write=adding), "an older file is not replaced by .*; got other content"),
    ("test_the_values_of_the_model_are_written", writing(write=planned), "give the same file; got no difference, allo"),
    ("test_what_is_read_back_computes_the_same", writing(read=zeroed), "computes something else; got a relative diffe"),
    ("test_what_is_read_back_computes_the_same", writing(read=lambda p, m: 1 // 0), "cannot be read back; got ZeroDiv"),
    ("test_what_is_read_back_computes_the_same", writing(read=lambda p, m: {}), "load gives no module; got dict, allo"),
    ("test_the_result_stays", writing(write=halved), "it changes the model; got values of 'stem.conv.weight', allowed"),
    ("test_the_result_stays", writing(write=renamed), "it changes the plan; got another plan, allowed: no change"),
    ("test_a_bare_model_is_refused", writing(write=careless), "a bare model is not refused; got PosixPath and no erro"),
]


@pytest.mark.parametrize(("check", "member", "words"), METHOD_CASES)
def test_broken_methods(check: str, member: Any, words: str) -> None:
    check_broken(method_suite(member), check, words)


def test_a_method_under_another_name() -> None:
    with METHODS.lent("good", GOOD):
        check_broken(method_suite("good"), "test_its_record_is_sound", "another name; got 'magnitude', allowed: 'good'")


@pytest.mark.parametrize(("check", "member", "words"), RULE_CASES)
def test_broken_rules(check: str, member: Any, words: str) -> None:
    op, network, rule = member
    check_broken(rule_suite(op, network, torch.randn(2, 6), rule=rule), check, words)


@pytest.mark.parametrize(("check", "member", "words"), REPAIR_CASES)
def test_broken_repairs(check: str, member: Any, words: str) -> None:
    check_broken(repair_suite(member), check, words)


@pytest.mark.parametrize(("check", "member", "words"), EXPORTER_CASES)
def test_broken_exporters(check: str, member: Any, words: str) -> None:
    check_broken(exporter_suite(member), check, words)


def test_every_check_can_fail() -> None:
    check_covered(MethodSuite, METHOD_CASES)
    check_covered(RuleSuite, RULE_CASES)
    check_covered(RepairSuite, REPAIR_CASES)
    check_covered(ExporterSuite, EXPORTER_CASES)


def test_failures_say_all_at_once_without_pytest() -> None:
    found = exporter_suite(writing(write=planned, description="")).failures()
    assert list(found) == [
        "test_its_record_is_sound",
        "test_the_values_of_the_model_are_written",
        "test_what_is_read_back_computes_the_same",
    ]
    assert exporter_suite(writing()).failures() == {}


def test_the_suites_need_no_pytest() -> None:
    code = "import sys, prunus.testing; print('pytest' in sys.modules or '_pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_only_a_check_can_be_left_out() -> None:
    with pytest.raises(OptionError, match="the suite has no check 'test_colour'; allowed: test_it_begins_whole, "):
        suite_for(ScheduleSuite, "mine", None, ("test_colour",))
