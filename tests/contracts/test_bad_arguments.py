"""Bad arguments at every public door: one clear line as an error of prunus, and nothing half-written."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
import prunus.testing
from prunus.budget import Bound
from prunus.criteria import UnitRule
from prunus.errors import DataError, ModelError, OptionError, PlanError, PrunusError, UsageError, nearest
from prunus.foundation.arguments import door
from prunus.repairs import merged

BUDGET = {"params": 0.5}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


@dataclass(frozen=True)
class Bench:
    """What the doors are tried with."""

    model: nn.Module
    x: torch.Tensor
    data: list[tuple[torch.Tensor, torch.Tensor]]
    analysis: prunus.Analysis
    plan: prunus.Plan
    outcome: prunus.Outcome
    folder: Path

    def prune(self, **options: Any) -> Any:
        return prunus.prune(self.model, self.x, **{"budget": BUDGET, **options})

    def stored(self, change: Callable[[dict[str, Any]], Any]) -> Path:
        """Return a folder whose plan.json was changed."""
        self.plan.save(self.folder / "changed")
        file = self.folder / "changed" / "plan.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
        return file.parent


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    model, x = network(), torch.randn(2, 8)
    data = [(torch.randn(16, 8), torch.randint(0, 4, (16,))) for _ in range(4)]
    analysis = prunus.analyse(model, x)
    plan = analysis.plan(BUDGET)
    return Bench(model, x, data, analysis, plan, prunus.realise(analysis, plan), tmp_path_factory.mktemp("bad"))


def refused(call: Callable[[], Any], kind: type[PrunusError], said: str) -> PrunusError:
    """Assert that a call raises one line of a kind that says so, and return the error."""
    with pytest.raises(kind, match=said) as caught:
        call()
    assert "\n" not in str(caught.value), "the message has several lines"
    return caught.value


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"levels": None}, r"^levels is None; allowed: a tuple of unit, weight"),
    ({"levels": 5}, "^levels is 5; allowed: a tuple of unit, weight"),
    ({"levels": ("unit", "unit")}, r"^levels is \('unit', 'unit'\); allowed: .* each once"),
    ({"bounds": 5}, "^bounds is 5; allowed: a dict of patterns and limits"),
    ({"bounds": {3: {"floor": 2}}}, r"^bounds is \{3: .*; allowed: a dict of patterns and limits"),
    ({"bounds": {"0": {"floor": 100}}}, "^floor of '0' is 100; its widest axis has 32 units"),
    ({"bounds": {"0": {"ceiling": 0}}}, "^ceiling is 0; allowed: a whole number of at least 1"),
    ({"bounds": {"0": {"forced": 0}}}, "^forced is 0; allowed: a whole number of at least 1"),
    ({"bounds": {"0": {"frozen": "yes"}}}, "^frozen is 'yes'; allowed: True or False"),
    ({"bounds": {"0": {"floor": 20, "ceiling": 10}}}, "^floor is 20 and ceiling 10; allowed: a floor up to"),
    ({"damage": "yes"}, "damage is 'yes'; allowed: True or False"),
    ({"damage": None}, "damage is None; allowed: True or False"),
    ({"method": ""}, "^Unknown method ''"),
    ({"allocator": 5}, "^allocator is 5; allowed: .* or a function"),
    ({"judge": None}, "^judge is None; allowed: 'none', or the name"),
    ({"judge": "bias"}, "^judge is 'bias', .* search is 0; give search=8"),
    ({"stages": None}, "^stages is None; allowed: a list of mappings"),
    ({"levels": ("weight",), "bounds": {"0": {"floor": 4}}}, "^bounds of '0' limit how many units .* 'weights' masks"),
    ({"levels": ("weight",), "bounds": {"0": {"round_to": 4}}}, "^bounds of '0' limit how many units"),
]


def ids(cases: list[tuple[dict[str, Any], str]]) -> list[str]:
    return [" ".join(f"{name}={value}" for name, value in given.items()) for given, _ in cases]


@pytest.mark.parametrize(("given", "said"), OPTIONS, ids=ids(OPTIONS))
def test_what_is_asked_of_a_plan(bench: Bench, given: dict[str, Any], said: str) -> None:
    for call in (
        lambda: bench.prune(**given),
        lambda: bench.analysis.plan(BUDGET, **given),
        lambda: prunus.plan(bench.model, bench.x, budget=BUDGET, **given),
        lambda: bench.outcome.rebudget(BUDGET, **given),
    ):
        refused(call, OptionError, said)


ANALYSED: list[tuple[dict[str, Any], type[PrunusError], str]] = [
    ({"ignore": None}, OptionError, "^ignore is None; allowed: a list of patterns"),
    ({"ignore": 5}, OptionError, "^ignore is 5; allowed: a list of patterns"),
    ({"opt_in": None}, OptionError, "^opt_in is None; allowed: a list of names such as"),
    ({"opt_in": 5}, OptionError, "^opt_in is 5; allowed: a list of names"),
    ({"opt_in": "experts"}, OptionError, r"^opt_in is 'experts'; allowed: a list of names such as \['experts'\]"),
    ({"held_out": 5}, OptionError, "^held_out needs data: it decides .*; pass data too"),
    ({"held_out": 5, "data": "noise"}, DataError, "^held_out is a int; allowed: an iterable of batches"),
    ({"loss": 5}, OptionError, "^loss is 5; allowed: one of cross_entropy"),
    ({"loss": None}, OptionError, "^loss is None; allowed: one of cross_entropy"),
    ({"progress": 5}, OptionError, "progress is 5; allowed: an object with start, advance and finish"),
]


@pytest.mark.parametrize(("given", "kind", "said"), ANALYSED, ids=ids([(given, said) for given, _, said in ANALYSED]))
def test_what_is_analysed(bench: Bench, given: dict[str, Any], kind: type[PrunusError], said: str) -> None:
    refused(lambda: bench.prune(**given), kind, said)
    refused(lambda: prunus.analyse(bench.model, bench.x, **given), kind, said)


def test_bounds_of_an_analysis_are_those_of_a_plan(bench: Bench) -> None:
    for given, said in OPTIONS:
        if set(given) == {"bounds"} and "forced" not in str(given):
            refused(lambda given=given: prunus.analyse(bench.model, bench.x, **given), OptionError, said)  # type: ignore[misc]


def test_a_floor_above_one_axis_of_several_holds_that_axis_whole() -> None:
    plan = prunus.plan(network(), torch.randn(2, 8), budget={"params": 0.7}, bounds={"*": {"floor": 20}})
    assert set(plan.axes) == {"0:out"}


def test_an_example_without_samples(bench: Bench) -> None:
    refused(
        lambda: prunus.prune(bench.model, torch.randn(0, 8), budget=BUDGET), DataError, "hold no sample: .* \\(0, 8"
    )
    refused(lambda: prunus.analyse(bench.model, torch.randn(0, 8)), DataError, "allowed: one sample or more")


def test_a_plan_with_a_key_twice(bench: Bench) -> None:
    file = bench.stored(lambda text: text) / "plan.json"
    file.write_text(file.read_text().replace('"axes": {', '"axes": {"0:out": {"size": 32, "keep": "0"},', 1))
    refused(lambda: prunus.Plan.load(file.parent), PlanError, r"plan.json: the key '0:out' occurs twice .*; keep one")


OTHER = nn.Sequential(nn.Linear(8, 31), nn.ReLU(), nn.Linear(31, 4))

DOORS: list[tuple[str, Callable[[Bench], Any], type[PrunusError], str]] = [
    ("realise no plan", lambda b: prunus.realise(b.analysis, None), OptionError, r"realise: plan is None; allowed: a"),
    ("realise text", lambda b: prunus.realise(b.analysis, "plan"), OptionError, "plan is 'plan'; .* Plan.load"),
    ("realise a model", lambda b: prunus.realise(b.model, b.plan), OptionError, "analysis is a Seq.* prunus.analyse"),
    ("realise others", lambda b: prunus.realise(b.analysis, b.plan, weights=OTHER), PlanError, "^weights: '0.weight'"),
    ("realise number", lambda b: prunus.realise(b.analysis, b.plan, weights=5), ModelError, "weights is 5; allowed: a"),
    ("realise fresh", lambda b: prunus.realise(b.analysis, b.plan, fresh=5), OptionError, "fresh is 5; allowed: a Tra"),
    ("apply None", lambda b: prunus.apply(b.model, None, b.x), OptionError, "apply: plan is None; allowed: a Plan"),
    ("apply a path", lambda b: prunus.apply(b.model, "nowhere", b.x), OptionError, "plan is 'nowhere'; .* Plan.load"),
    ("apply a dict", lambda b: prunus.apply(b.model, {}, b.x), OptionError, r"plan is \{\}; allowed: a Plan"),
    ("repair None", lambda b: prunus.repair(None), OptionError, "repair: found is None; allowed: an Outcome"),
    ("repair a model", lambda b: prunus.repair(b.model, b.data), OptionError, "found is a Sequential; .* an Outcome"),
    ("recover a model", lambda b: prunus.recover(b.model, b.data, {"steps": 1}), OptionError, "allowed: an Outcome"),
    (
        "export to ONNX",
        lambda b: prunus.export(b.outcome, "x.onnx"),
        OptionError,
        r"in \.onnx, .* torch\.onnx\.export\(",
    ),
    (
        "save to .pt",
        lambda b: prunus.save(b.outcome, "x.pt"),
        OptionError,
        r"^'x.pt' ends in \.pt, which prunus does not",
    ),
    (
        "exchanged",
        lambda b: prunus.export("x.pt2", b.outcome),
        OptionError,
        r"an Outcome .*The order is found, path\.$",
    ),
    ("repair without data", lambda b: prunus.repair(b.outcome), OptionError, "^this outcome has no data; pass data="),
    ("merge no moments", lambda b: merged([]), DataError, "^no calibration batch was given; pass at least one"),
    ("repair on nothing", lambda b: prunus.repair(b.outcome, 5), DataError, "^data is a int; allowed: an iterable"),
    ("verify gradients", lambda b: prunus.verify(b.outcome, gradients="x"), OptionError, "gradients is 'x'; .* True o"),
    ("verify seed", lambda b: prunus.verify(b.outcome, seed="x"), OptionError, "^seed is 'x'; allowed: a whole number"),
    ("Plan.load", lambda b: prunus.Plan.load(None), OptionError, "Plan.load: folder is None; allowed: a path"),
    ("Plan.save", lambda b: b.plan.save(None), OptionError, "Plan.save: folder is None; allowed: a path"),
    ("Plan.save option", lambda b: b.plan.save("p", tensors=5), OptionError, "Plan.save has no argument 'tensors'"),
    ("Outcome.save", lambda b: b.outcome.save(None), OptionError, "save: path is None; allowed: a path"),
    ("tensors", lambda b: b.outcome.save(b.folder / "o", tensors=5), OptionError, "^tensors is 5; allowed: a mapping"),
    ("save", lambda b: prunus.save(b.outcome, 5), OptionError, "save: path is 5; allowed: a path"),
    ("load", lambda b: prunus.load(None), OptionError, "load: path is None; allowed: a path"),
    ("export", lambda b: prunus.export(b.outcome, None), OptionError, "export: path is None; allowed: a path"),
    ("load_recipe", lambda b: prunus.load_recipe(None), OptionError, "path is None; allowed: a path"),
    ("undo", lambda b: prunus.undo(5, b.plan, b.model), UsageError, "^undo got 5 as the cut model"),
    ("undo by no plan", lambda b: prunus.undo(b.outcome.model, 5, b.model), OptionError, "plan is 5; allowed: a Plan"),
    ("measure", lambda b: prunus.measure(b.model, b.x, data=5), DataError, "^data is a int; allowed: an iterable"),
    ("measure rows", lambda b: prunus.measure(b.model, b.x, data=b.x), DataError, r"allowed is a pair \(inputs, targ"),
    ("baseline", lambda b: prunus.measure(b.model, b.x, baseline=5), ModelError, "baseline is 5; allowed: a torch.nn"),
    ("compare", lambda b: prunus.compare(None), OptionError, "recipe is None; allowed: a Recipe .* or a path"),
    ("cite", lambda b: prunus.cite(None), OptionError, "what is None; allowed: a Recipe .* or a mapping"),
    ("couple", lambda b: prunus.couple(None), OptionError, "graph is None; allowed: a Graph .of prunus.capture"),
    ("grow_tree", lambda b: prunus.grow_tree(None), OptionError, "coupling is None; allowed: a Coupling"),
    ("inspect", lambda b: prunus.inspect(None, b.x), ModelError, "inspect: model is None; allowed: a torch.nn.Module"),
    ("inspect alone", lambda b: prunus.inspect(b.model), OptionError, "^inspect needs example_inputs"),
    ("Pruner", lambda b: prunus.Pruner(5, {"kept": 0.5}), ModelError, "Pruner: model is 5; allowed: a torch.nn.Module"),
    ("rebudget", lambda b: b.outcome.rebudget(None), OptionError, "^budget is None; give a dict"),
]


@pytest.mark.parametrize(("call", "kind", "said"), [case[1:] for case in DOORS], ids=[case[0] for case in DOORS])
def test_objects_of_another_kind(
    bench: Bench, call: Callable[[Bench], Any], kind: type[PrunusError], said: str
) -> None:
    before = sorted(bench.folder.iterdir())
    refused(lambda: call(bench), kind, said)
    assert sorted(bench.folder.iterdir()) == before, "something was written"


FUNCTIONS = sorted(name for name in prunus.__all__ if inspect.isfunction(getattr(prunus, name)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_that_a_function_does_not_have(name: str) -> None:
    function = getattr(prunus, name)
    known = next(iter(inspect.signature(function).parameters))
    if name == "plan":  # takes the options of `prune` by name
        refused(lambda: prunus.plan(network(), torch.randn(2, 8), budget=BUDGET, levls=()), OptionError, "'levels'")
    else:
        refused(lambda: function(**{f"{known}_": 1}), OptionError, f"^{name} has no argument '{known}_'.*'{known}'")


def test_the_nearest_argument_is_named_and_those_that_are_missing(bench: Bench) -> None:
    refused(lambda: bench.prune(levles=()), OptionError, "prune has no argument 'levles'. Did you mean 'levels'")
    refused(lambda: prunus.prune(bench.model, bench.x), OptionError, "^prune needs budget; give budget=…")
    refused(lambda: prunus.plan(bench.model, bench.x, method="depth"), OptionError, "^plan needs budget")
    refused(lambda: bench.analysis.plan(method="depth"), OptionError, "^Analysis.plan needs budget")
    refused(lambda: prunus.prune(bench.model, bench.x, BUDGET), OptionError, "takes model, example_inputs by position")
    refused(lambda: prunus.realise(bench.analysis, bench.plan, analysis=1), OptionError, "multiple values .* once")


def test_every_public_function_is_a_door() -> None:
    """A function that was left out would let a foreign exception through."""
    bare = [name for name in FUNCTIONS if not hasattr(getattr(prunus, name), "__wrapped__")]
    assert not bare
    suites = [getattr(prunus.testing, name) for name in dir(prunus.testing) if name.endswith("_suite")]
    for function in (*(getattr(prunus, name) for name in FUNCTIONS), *suites):
        inspect.get_annotations(inspect.unwrap(function), eval_str=True)  # as a door reads them at the first call


def test_a_door_takes_what_its_annotations_say() -> None:
    @door()
    def opened(model: nn.Module | None, path: Path | str, wanted: bool = False, count: int = 0) -> str:
        return f"{path} {wanted} {count}"

    assert opened(None, "a", True) == opened(nn.ReLU(), path=Path("a"), wanted=True) == "a True 0"
    assert opened(None, "a", count="not its business") == "a False not its business"  # type: ignore[arg-type]
    refused(lambda: opened("m", "a"), ModelError, "^opened: model is 'm'; allowed: a torch.nn.Module or None")  # type: ignore[arg-type]


PLANS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("a list", lambda t: [], r"plan.json is \[\]; a plan is an object with the keys"),
    ("settings", lambda t: {**t, "settings": 5}, r"'settings' is 5; allowed: an object"),
    ("axes", lambda t: {**t, "axes": [5]}, r"'axes' is \[5\]; allowed: an object"),
    ("tensors", lambda t: {**t, "tensors": {"a": 5}}, "tensor .a. is 5; allowed: dims and ranges"),
    ("drops", lambda t: {**t, "drops": "x"}, r"'drops' is 'x'; allowed: a list"),
    ("masks", lambda t: {**t, "masks": {"a": 5}}, "does not hold the masks"),
    ("no axes", lambda t: {k: v for k, v in t.items() if k != "axes"}, "the key 'axes' is missing"),
    ("no tensors", lambda t: {k: v for k, v in t.items() if k != "tensors"}, "the key 'tensors' is missing"),
    ("version", lambda t: {**t, "version": 3}, "has an unknown key 'version'.* Allowed: format, fingerprint"),
    ("format", lambda t: {**t, "format": "prunus-plan/9"}, "has format 'prunus-plan/9'; this version reads"),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in PLANS], ids=[case[0] for case in PLANS])
def test_a_damaged_plan(bench: Bench, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    folder = bench.stored(change)
    refused(lambda: prunus.Plan.load(folder), PlanError, said)


@pytest.mark.parametrize("emptied", ["axes", "tensors"])
def test_a_plan_whose_axes_and_tensors_do_not_agree(bench: Bench, emptied: str) -> None:
    plan = prunus.Plan.load(bench.stored(lambda text: {**text, emptied: {}}))
    refused(lambda: prunus.apply(bench.model, plan, bench.x), PlanError, "axes and its tensors do not agree on '0.")
    refused(lambda: prunus.realise(bench.analysis, plan), PlanError, "prunus.analysis.review.settle")


@pytest.mark.parametrize(
    ("settings", "said"), [({"seed": "x"}, "^seed is 'x'; allowed"), ({"opt_in": 5}, "^opt_in is 5; allowed")]
)
def test_settings_of_a_plan_that_are_none(bench: Bench, settings: dict[str, Any], said: str) -> None:
    plan = prunus.Plan.load(bench.stored(lambda text: {**text, "settings": settings}))
    refused(lambda: prunus.apply(bench.model, plan, bench.x), OptionError, said)


def broken(*_: Any) -> Any:
    raise ZeroDivisionError("by mine")


FAULTY: list[tuple[str, dict[str, Any], str]] = [
    ("criterion", {"criterion": broken}, "^criterion function 'broken' for group '0:out' of 32 units raised"),
    ("rule", {"criterion": UnitRule(broken)}, "^criterion 'broken' raised"),
    ("weights", {"criterion": broken, "levels": ("weight",)}, "^criterion function 'broken' for weight '0.weight' of"),
    ("allocator", {"allocator": broken}, "^allocator 'broken' raised"),
    ("loss", {"criterion": "taylor", "loss": broken}, "^loss 'broken' raised"),
    ("loss of weights", {"criterion": "snip", "levels": ("weight",), "loss": broken}, "^loss 'broken' raised"),
    ("loss of a method", {"method": "oracle", "loss": broken}, "^loss 'broken' raised"),
    ("loss of a search", {"search": 4, "loss": broken}, "^loss 'broken' raised"),
]


@pytest.mark.parametrize(("given", "said"), [case[1:] for case in FAULTY], ids=[case[0] for case in FAULTY])
def test_functions_of_the_users_that_raise(bench: Bench, given: dict[str, Any], said: str) -> None:
    error = refused(lambda: bench.prune(data=bench.data, **given), OptionError, said)
    assert re.search(r"raised ZeroDivisionError at test_bad_arguments\.py:\d+: by mine", str(error))
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_a_function_as_allocator_of_weights(bench: Bench) -> None:
    refused(lambda: bench.prune(allocator=broken, levels=("weight",)), OptionError, "^weight_allocator is <function")


SUITES = [name for name in dir(prunus.testing) if name.endswith("_suite") and name != "rule_suite"]


@pytest.mark.parametrize("name", SUITES)
def test_suites_of_nothing(name: str) -> None:
    refused(lambda: getattr(prunus.testing, name)(None), OptionError, "is None; allowed: the name of an enrolled one")


def test_a_door_reads_aliases_of_other_modules() -> None:
    assert prunus.testing.rule_suite("my.op", network, torch.randn(2, 8)).title == "my.op"


def test_a_suite_without_its_network() -> None:
    refused(lambda: prunus.testing.rule_suite("my.op"), OptionError, "^rule_suite needs network and inputs")  # type: ignore[call-arg]


@pytest.mark.parametrize("metric", ["memory", "energy", "macs"])
def test_budgets_that_masks_do_not_change(bench: Bench, metric: str) -> None:
    said = f"^budget {metric} with level 'weight': .* memory, time, energy"
    refused(lambda: bench.prune(budget={metric: 0.5}, levels=("weight",)), OptionError, said)


def test_who_holds_everything_is_named(bench: Bench) -> None:
    frozen = {"0": {"frozen": True}, "2": {"frozen": True}}
    refused(lambda: bench.prune(bounds=frozen), PrunusError, "axes are held, .* Loosen the frozen bounds, or")
    refused(lambda: bench.prune(ignore=["0", "2"]), PrunusError, "axes are held, .* Loosen ignore, or")


@pytest.mark.parametrize(
    ("name", "allowed", "near"),
    [
        ("levles", ["levels"], "levels"),
        ("mac", ["macs", "params"], "macs"),
        ("foo", ["found", "forward"], None),
        ("verbose", ["recover"], None),
        ("nothing", ["none"], None),
    ],
)
def test_a_suggestion_is_near(name: str, allowed: list[str], near: str | None) -> None:
    assert nearest(name, allowed) == (f" Did you mean {near!r}?" if near else "")


def test_bounds_that_say_nothing_wrong_are_taken() -> None:
    assert Bound.of({"floor": 0, "ceiling": 3}) == Bound(0, 3)
    assert Bound.of({"floor": 0.2, "ceiling": 3}).counts("a", 10).tolist() == [2, 3]
