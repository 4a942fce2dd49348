"""The results records: what is refused, what survives the file, what the summary says."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import fields, replace
from pathlib import Path

import pytest

from factories_results import make_results, make_row
from prunus.errors import DataError
from prunus.foundation.checksum import with_sum
from prunus.report.results import (
    SCHEMA,
    Environment,
    Frontier,
    LayerChange,
    Results,
    Row,
    Skipped,
    Spread,
    Summary,
    TrainingPoint,
    summarise,
)

SCHEMA_PAGE = Path(__file__).parents[2] / "docs" / "results-schema.md"


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results(seeds=2)


@pytest.fixture(scope="module")
def content(results: Results) -> dict:
    return json.loads(results.to_json())


def refused(content: dict) -> str:
    with pytest.raises(DataError) as caught:
        Results.from_json(json.dumps(content), "some.json")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("some.json")
    return message


def edited(content: dict, *path: object, value: object) -> dict:
    copy = json.loads(json.dumps(content))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


def test_json_keeps_everything(results: Results) -> None:
    assert Results.from_json(results.to_json()) == results


def test_file_keeps_everything_and_replaces_the_old_one(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    results.save(path)
    assert Results.load(path) == results
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_json_has_the_promised_keys(content: dict) -> None:
    assert content["schema"] == SCHEMA == "prunus-results/1"
    promised = """method level kept_fraction accuracy_before_recovery accuracy f1_macro worst_class params nonzero
        macs_forward macs_backward size_bytes latency_forward_ratio latency_backward_ratio seconds"""
    for row in (content["dense"], *content["runs"]):
        assert set(promised.split()) <= set(row)
    assert content["dense"] == content["dense_runs"][0]
    assert content["seeds"] == [0, 1]


def test_optional_keys_may_be_absent(results: Results) -> None:
    content = json.loads(results.to_json())
    for row in (content["dense"], *content["dense_runs"], *content["runs"]):
        for name in ("flip_rate", "auc", "bits", "latency_forward_ms", "latency_backward_ms", "structure", "notes"):
            row.pop(name, None)
    read = Results.from_json(json.dumps(with_sum(content)))
    assert read.runs[0].flip_rate is None
    assert read.runs[0].structure == ()
    assert read.summary == results.summary


def test_summary_is_mean_std_min_max_over_seeds() -> None:
    rows = [make_row("importance", 0.3, seed, accuracy=value) for seed, value in enumerate((0.9, 0.94, 0.95))]
    (item,) = summarise(rows)
    assert (item.method, item.level, item.kept_fraction, item.n) == ("importance", "weight", 0.3, 3)
    assert item.accuracy.mean == pytest.approx(0.93)
    assert item.accuracy.std == pytest.approx(statistics.stdev((0.9, 0.94, 0.95)))
    assert (item.accuracy.min, item.accuracy.max) == (0.9, 0.95)


def test_one_seed_has_no_spread() -> None:
    assert Spread.of([0.5]) == Spread(0.5, 0.0, 0.5, 0.5)


def test_one_untimed_seed_leaves_no_latency_spread() -> None:
    untimed = make_row("modular", 0.5, 1, latency_forward_ratio=None, latency_forward_interval=None)
    (item,) = summarise([make_row("modular", 0.5, 0), untimed])
    assert item.latency_forward_ratio is None
    assert item.latency_backward_ratio is not None


def test_repeated_seed_is_refused() -> None:
    with pytest.raises(DataError, match=r"'importance' at 0\.3, seed 0.*one row for each seed"):
        summarise([make_row("importance", 0.3), make_row("importance", 0.3)])


def test_unknown_key_names_the_nearest(content: dict) -> None:
    content = edited(content, "runs", 3, "acuracy", value=1.0)
    message = refused(content)
    assert "runs[3]" in message
    assert "'acuracy'" in message
    assert "Did you mean 'accuracy'?" in message


def test_missing_key_is_named(content: dict) -> None:
    copy = edited(content, "title", value="x")
    del copy["runs"][2]["params"]
    assert "runs[2]: the key 'params' is missing" in refused(copy)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("runs", 0, "params"), 1.5, "expected a whole number"),
        (("runs", 0, "params"), True, "expected a whole number"),
        (("runs", 0, "accuracy"), "0.9", "expected a number"),
        (("runs", 0, "accuracy"), None, "expected a number"),
        (("runs", 0, "accuracy"), 1.01, "accuracy is 1.01, allowed: at least 0, at most 1"),
        (("runs", 0, "kept_fraction"), 0.0, "kept_fraction is 0.0, allowed: above 0"),
        (("runs", 0, "seconds"), -1.0, "seconds is -1.0"),
        (("runs", 0, "nonzero"), 10**9, "allowed at most params"),
        (("runs", 0, "level"), "wieght", "allowed: 'dense', 'weight'"),
        (("runs", 0, "level"), ["weight"], "allowed: 'dense', 'weight'"),
        (("runs", 0, "latency_forward_interval"), [1.0], "expected exactly 2"),
        (("runs", 0, "latency_forward_interval"), [1.2, 0.9], "allowed 0 < low <= high"),
        (("runs", 0, "latency_forward_interval"), None, "both be given or both be null"),
        (("runs", 0, "structure", 0, "units_after"), 10**6, "units_after is 1000000"),
        (("runs", 0, "structure", 0, "dropped"), 0, "expected true or false"),
        (("runs", 0, "notes"), "text", "expected a list"),
        (("runs", 0), [], "expected an object"),
        (("recipe",), [], "expected an object"),
        (("created",), "yesterday", "write an ISO 8601 time in UTC"),
        (("created",), "2026-01-31T12:00:00+02:00", "write an ISO 8601 time in UTC"),
        (("summary", 0, "accuracy", "mean"), 0.5, "summary does not follow from runs"),
        (("summary",), [], "summary does not follow from runs"),
        (("seeds",), [0], "one row for each seed"),
        (("dense", "accuracy"), 0.5, "first of dense_runs"),
        (("schema",), "prunus-results/2", "this version reads 'prunus-results/1'"),
    ],
)
def test_bad_value_is_refused_with_its_place(content: dict, path: tuple, value: object, words: str) -> None:
    assert words in refused(edited(content, *path, value=value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[]", "the schema is 'list'"),
        ("{}", "the schema is None"),
        ("null", "the schema is 'NoneType'"),
        ('{"schema": NaN}', "holds NaN"),
        ('{"schema": 1, "schema": 2}', "'schema' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_results_file_is_refused(text: str, words: str) -> None:
    with pytest.raises(DataError, match=r"some\.json") as caught:
        Results.from_json(text, "some.json")
    assert words in str(caught.value)


def test_infinite_number_is_refused(content: dict) -> None:
    text = re.sub(r'"seconds": [0-9.]+', '"seconds": 1e999', json.dumps(content), count=1)
    with pytest.raises(DataError, match="seconds: got inf, expected a finite number"):
        Results.from_json(text)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        Results.load(tmp_path / "none.json")
    (tmp_path / "bin.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8 text"):
        Results.load(tmp_path / "bin.json")


def test_recipe_that_is_no_json_is_refused_and_nothing_is_written(results: Results, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="recipe cannot be written"):
        replace(results, recipe={"out": Path("x")}).save(tmp_path / "results.json")
    with pytest.raises(DataError, match="recipe cannot be written"):
        replace(results, recipe={"lr": math.nan}).to_json()
    assert list(tmp_path.iterdir()) == []


def test_levels_do_not_mix() -> None:
    with pytest.raises(DataError, match="'dense' is for dense_runs"):
        replace(make_results(seeds=1), runs=(make_row("dense"),), summary=summarise([make_row("dense")]))
    with pytest.raises(DataError, match="dense_runs is empty"):
        Results.make(dense_runs=[], runs=[])


def test_schema_page_names_every_key() -> None:
    page = SCHEMA_PAGE.read_text(encoding="utf-8")
    for record in (Results, Row, LayerChange, Environment, Spread, Summary, Skipped, Frontier, TrainingPoint):
        missing = [field.name for field in fields(record) if f"`{field.name}`" not in page]
        assert not missing, f"{record.__name__}: {missing}"


def test_a_long_value_in_place_of_the_schema_gives_a_short_line() -> None:
    text = json.dumps({"schema": [{"method": "dense", "notes": "x" * 5000}]})
    with pytest.raises(DataError, match="the schema is") as caught:
        Results.from_json(text)
    assert len(str(caught.value)) < 300
