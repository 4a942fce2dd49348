"""Bad input of the hierarchical procedure: one line each, at every door."""

from __future__ import annotations

from typing import Any

import pytest

import prunus
from factories_hierarchical import subject
from prunus.errors import BudgetError, OptionError, SelectorError

BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"nodes": {"*": {"method": "weights"}, "0": {"method": "units"}}}, OptionError, "'stage1/0' is given two methods"),
    ({"nodes": {"0": {"method": ["units", "weights"]}}}, OptionError, "'0' is given 2 methods"),
    ({"nodes": {"0": {"method": "units", "size": [1, 8]}}}, OptionError, "'0' is given two methods"),
    (
        {"nodes": {"0": {"criterion": "taylor", "strategy": "weight"}}},
        OptionError,
        "by criterion taylor and by strategy",
    ),
    ({"nodes": {"stage1/00": {"rate": 0.5}}}, SelectorError, "matches no part of the tree. Nearest: 'stage1/0'"),
    ({"nodes": {"1/units<q10": {"method": "remove"}}}, SelectorError, "matches no part of the tree"),
    ({"nodes": {"4": {"rate": 0.5}}}, SelectorError, "holds no units that could go"),
    ({"nodes": {"0": {"method": "remove"}}}, SelectorError, "holds no block that could be dropped"),
    ({"nodes": {"0": {"rate": 0}}}, OptionError, "rate is 0; allowed: a share between 0 and 1"),
    ({"nodes": {"0": {"rate": 1.5}}}, OptionError, "rate is 1.5; allowed: a share between 0 and 1"),
    ({"nodes": {"0": {"rate": True}}}, OptionError, "rate is True"),
    ({"nodes": {"0": {"rate": float("nan")}}}, OptionError, "rate is nan"),
    ({"nodes": {"0": {"rates": 0.5}}}, OptionError, "has the key 'rates'. Did you mean 'rate'?"),
    ({"nodes": {"0": {"criterion": "magnitud"}}}, OptionError, "'magnitud' is unknown. Did you mean 'magnitude'?"),
    ({"nodes": {"0": {"method": "depth"}}}, OptionError, "makes a plan of the whole network"),
    ({"nodes": {"0": {"method": "window", "size": [0, 8]}}}, OptionError, "size is [0, 8]"),
    ({"nodes": {"0": 0.5}}, OptionError, "is 0.5; allowed: a section"),
    ({"nodes": ["0"]}, OptionError, "allowed: a section from parts of the tree"),
    ({"nodes": {"0/units<q10": {}}}, OptionError, "is a group; give method remove or keep, or a rate"),
    ({"nodes": {"0/units<q10": {"method": "weights", "rate": 0.5}}}, OptionError, "is a group of units"),
    (
        {"nodes": {"0/units<q1": {"method": "remove"}}},
        OptionError,
        "holds none of the 20 units of a layer: ⌊0.01·20⌋ = 0",
    ),
    ({"nodes": {"0/units<q1": {"method": "keep"}}}, OptionError, "Give units<q5."),
    ({"nodes": {"0/units=q11-12": {"method": "remove"}}}, OptionError, "Give a range of at least 5 %"),
    ({"nodes": {"0/units<q20": {"rate": 0.1}}}, OptionError, "rate 0.1 of 4 units removes none; give more than 0.125"),
    ({"divide": "breadth"}, OptionError, "divide is 'breadth'. Allowed: feature, depth, connections"),
    ({"divide": "depth:9"}, OptionError, "divide is depth:9"),
    ({"divide": "depth:x"}, OptionError, "divide is depth with count 'x'"),
    ({"divide": "feature:2"}, OptionError, "feature finds the number itself"),
    ({"strategy": "gradients"}, OptionError, "Did you mean 'gradient'?"),
    ({"optimise": "finetune"}, OptionError, "give its steps, as finetune:50"),
    ({"optimise": "polish"}, OptionError, "optimise is 'polish'; allowed: none, refit"),
    ({"strategy": "weight", "method": "depth"}, OptionError, "takes no strategy (got 'weight')"),
    ({"strategy": "weight", "criterion": "taylor"}, OptionError, "takes no criterion"),
)


@pytest.mark.parametrize(("options", "kind", "words"), BAD, ids=[words[:40] for _, _, words in BAD])
def test_bad_input_is_one_line(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as error:
        subject("Mlp").plan({"params": 0.5}, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"strategy": "gradient"}, {"strategy": "activation"}, {"nodes": {"0": {"strategy": "gradient"}}}]
)
def test_a_strategy_that_needs_data_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"strategy '(gradient|activation)'.* needs data=batches"):
        subject("Mlp", data=False).plan({"params": 0.5}, **options)


def test_a_fine_tuning_between_levels_needs_data() -> None:
    with pytest.raises(OptionError, match=r"optimise 'finetune:5' needs data=batches of \(inputs, targets\)"):
        subject("Mlp", data=False).plan({"params": 0.5}, optimise="finetune:5")


def test_the_least_useful_quantile_is_useful() -> None:
    plan = subject("Mlp", data=False).plan({"params": 0.9}, nodes={"0/units<q5": {"method": "remove"}})
    assert int((~plan.axes["0:out"]).sum()) >= 1


def test_nodes_that_stay_are_not_called_nodes_of_a_rate() -> None:
    with pytest.raises(BudgetError) as error:
        subject("Mlp").plan({"params": 0.5}, nodes={"*": {"method": "keep"}})
    assert "the settings of nodes keep" in str(error.value)
    assert "other tensors" not in str(error.value)
    assert "rate" not in str(error.value)


def test_a_share_of_one_block_that_rounds_to_none_is_refused() -> None:
    with pytest.raises(OptionError, match=r"rate 0\.4 of 1 block removes none; give more than 0\.5"):
        subject("Conv").plan({"params": 0.9}, nodes={"*": {"method": "blocks", "rate": 0.4}})


def test_fixed_nodes_that_break_the_budget_are_named_in_numbers() -> None:
    nodes = {name: {"method": "weights", "rate": 0.1} for name in ("0", "2", "4")}
    with pytest.raises(BudgetError, match=r"the settings of nodes keep [0-9,]+\. Give"):
        subject("Mlp").plan({"params": 0.5}, nodes=nodes)


def test_the_command_line_reads_settings_from_words_and_files(tmp_path: Any) -> None:
    from prunus.cli.options import nodes_of

    words = ["stage1/*:criterion=magnitude,rate=0.8", "re:.*mlp:method=window,size=1x8", "a/units<q10:method=remove"]
    expected = {
        "stage1/*": {"criterion": "magnitude", "rate": 0.8},
        "re:.*mlp": {"method": "window", "size": [1, 8]},
        "a/units<q10": {"method": "remove"},
    }
    assert nodes_of(words) == expected
    for name, text in {
        "n.json": '{"a": {"rate": 0.5, "size": [2, 2]}}',
        "n.yaml": "a: {rate: 0.5, size: [2, 2]}\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert nodes_of([str(tmp_path / name)]) == {"a": {"rate": 0.5, "size": [2, 2]}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a:rate=0.5", "a:rate=0.6"], "'a' is given two settings"),
        (["a:method=units,method=weights"], "is given two methods; give one"),
        (["a:rate="], "allowed: PART:KEY=VALUE"),
        (["nowhere.yaml"], "cannot be read"),
    ],
)
def test_wrong_words_of_the_command_line_are_one_line(words: list[str], said: str) -> None:
    from prunus.cli.options import nodes_of

    with pytest.raises(OptionError) as error:
        nodes_of(words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('nodes: {"head": {rate: 2}}', "prune.nodes: 'head': rate is 2; allowed: a share between 0 and 1"),
        ("divide: breadth", "prune.divide: divide is 'breadth'. Allowed: feature"),
        ("strategy: gradients", "prune.strategy: strategy is 'gradients'. Did you mean 'gradient'?"),
        ("optimise: 3", "prune.optimise"),
    ],
)
def test_a_recipe_names_the_line_of_a_wrong_setting(line: str, said: str, tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"version: 1\nmodel: digits\ndata: digits\nprune:\n  budget: {{params: 0.5}}\n  {line}\n")
    with pytest.raises(prunus.errors.RecipeError) as error:
        prunus.load_recipe(path)
    assert said in str(error.value)
    assert f"{path}:6:" in str(error.value)
