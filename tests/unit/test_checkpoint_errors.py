"""Damaged, foreign and malicious checkpoints are refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from factories_networks import NetSpec
from factories_pruned import cut_at_random
from prunus.errors import ModelError, PlanError, UsageError
from prunus.exporters import load, save
from prunus.foundation.checksum import with_sum

ATTENTION = NetSpec("sequence", (0, 1), width=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return save(cut_at_random(ATTENTION.build(), ATTENTION.inputs(), seed=1), tmp_path / "small")


def refused(folder: Path, match: str, error: type[Exception] = ModelError, model: Any = None) -> None:
    with pytest.raises(error, match=match) as caught:
        load(folder, ATTENTION.build() if model is None else model)
    assert "\n" not in str(caught.value)


def rewrite(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file and, as an attacker would, its checksum too."""
    path, header = folder / name, folder / "checkpoint.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    told = json.loads(header.read_text())
    if path != header:
        content = path.read_bytes()
        told["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    header.write_text(json.dumps(with_sum(told)))


def test_no_model_where_one_is_needed(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"keeps the class factories_networks\.Network; give load a fresh instance"):
        load(folder)
    with pytest.raises(UsageError, match=r"model is 'model'; allowed: a torch\.nn\.Module or None"):
        load(folder, "model")  # type: ignore[arg-type]


def test_missing_and_damaged_files(folder: Path) -> None:
    refused(folder / "nowhere", "No checkpoint at")
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-3])
    refused(folder, "weights.safetensors is damaged or from another checkpoint")
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(folder, "weights.safetensors is damaged or from another checkpoint")
    weights.unlink()
    refused(folder, "lacks weights.safetensors")
    weights.write_bytes(content)
    (folder / "plan.json").unlink()
    refused(folder, "lacks plan.json")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h.update(format="prunus-checkpoint/2"), "has format 'prunus-checkpoint/2'; this version reads"),
        (lambda h: h.update(mode="magic"), "mode is 'magic'; allowed: module, hybrid, graph"),
        (lambda h: h.update(colour="red"), "unknown key 'colour'"),
        (lambda h: h.update(files={"../x": {}} | h["files"]), "only files of its own folder"),
        (lambda h: h["attributes"].update({"head": {"out_features": "4"}}), "'out_features' is 4 and cannot become"),
        (lambda h: h["attributes"].update({"head": {"forward": 4}}), "'forward' is .* and cannot become 4"),
        (lambda h: h.update(spliced=["head"]), "checkpoint.json names"),
    ],
)
def test_a_wrong_header(folder: Path, change: Callable[[Any], Any], match: str) -> None:
    rewrite(folder, "checkpoint.json", change)
    refused(folder, match)


def test_a_header_that_is_no_json(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("{")
    refused(folder, "checkpoint.json: line 1: not JSON")
    (folder / "checkpoint.json").write_bytes(b"\xff\xfe")
    refused(folder, "is no UTF-8 text")


def node(graph: Any, op: str) -> Any:
    return next(n for n in graph["graph"]["nodes"] if n["op"] == op and "args" in n)


def attention_call(graph: Any) -> Any:
    return graph["graph"]["calls"][graph["calls"][0]]


SDPA = "aten.scaled_dot_product_attention.default"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: node(g, SDPA).update(op="os.system('true')"), "as an op; allowed: names like"),
        (lambda g: node(g, SDPA).update(op="aten.from_file.default"), "which no network needs"),
        (lambda g: node(g, SDPA).update(op="prim.Print.default"), "which no network needs"),
        (lambda g: node(g, SDPA).update(op="load_library.a.b"), "not registered"),
        (lambda g: node(g, SDPA).update(op="mylib.myop.default"), "import the package that defines it"),
        (lambda g: node(g, SDPA).update(op="aten.save.default"), "no op that returns a tensor"),
        (lambda g: node(g, SDPA)["args"].update({"x), exit(": 1}), "has no argument 'x"),
        (lambda g: node(g, SDPA)["args"].update(scale={"dtype": "load"}), "torch has no dtype 'load'"),
        (lambda g: node(g, SDPA)["args"].update(scale={"import": "os"}), "unknown literal 'import'"),
        (lambda g: node(g, SDPA).update(call=10_000), "belongs to call 10000"),
        (lambda g: attention_call(g).update(path="forward.__globals__"), "'forward.__globals__', which this Network"),
        (lambda g: g["graph"].pop("calls"), "KeyError 'calls'"),
        (lambda g: g.update(calls=[10_000]), "IndexError"),
    ],
)
def test_a_graph_that_wants_more_than_a_network(folder: Path, change: Callable[[Any], Any], match: str) -> None:
    rewrite(folder, "graph.json", change)
    refused(folder, match, UsageError)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"tuple": [{"tuple": ["*"]}, {"dict": ["*"], "keys": ["x=exit(), y"]}]}, "a keyword argument named"),
        ({"tuple": [{"tuple": ["*"]}, {"dict": ["*"], "keys": ["lambda"]}]}, "a keyword argument named 'lambda'"),
        (
            {
                "registered": [],
                "type": "collections.defaultdict",
                "context": {"default_factory_module": "os", "default_factory_name": "getcwd", "dict_context": []},
            },
            "factory 'getcwd'",
        ),
        (
            {
                "registered": [],
                "type": "collections.OrderedDict",
                "context": '[{"__enum__": true, "fqn": "antigravity:X", "name": "a"}]',
            },
            "names an enumeration",
        ),
        ({"registered": [], "type": "nowhere.Type", "context": "null"}, "import its module before loading"),
        ({"namedtuple": [], "class": "os:system"}, "named tuple 'os:system'"),
        ({"namedtuple": [], "class": "not_imported.module:Pair"}, "import its module before loading"),
        ({"set": []}, "unknown structure 'set'"),
    ],
)
def test_a_structure_that_wants_more_than_a_structure(folder: Path, spec: Any, match: str) -> None:
    rewrite(folder, "graph.json", lambda g: attention_call(g).update(in_spec=spec))
    refused(folder, match)


def test_pickles_are_never_read(folder: Path) -> None:
    content = pickle.dumps({"a": torch.ones(1)})
    (folder / "weights.safetensors").write_bytes(content)
    mark = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder, "checkpoint.json", lambda h: h["files"].update({"weights.safetensors": mark}))
    refused(folder, "weights.safetensors cannot be read")


def test_another_model_is_named_by_its_first_tensor(folder: Path) -> None:
    wider = NetSpec("sequence", (0, 1), width=12)
    refused(folder, r"'stem\.weight' has shape \(12, 5\) here", PlanError, wider.build())
    other = NetSpec("sequence", (2, 1), width=8)
    refused(folder, r"'pieces\.0\.norm\.weight' is not in it", PlanError, other.build())
    shorter = NetSpec("sequence", (0,), width=8)
    refused(folder, r"it holds 'pieces\.1\.gru\.\w+', which this model does not have", PlanError, shorter.build())
    small, narrow = NetSpec("vector", (1,), width=6), NetSpec("vector", (1,), width=8)
    place = save(cut_at_random(small.build(), small.inputs(), seed=1), folder.parent / "other")
    refused(place, r"'stem\.weight' has shape \(8, 5\) here; it has .* parameters", PlanError, narrow.build())


def test_a_model_that_is_cut_already_is_refused(folder: Path) -> None:
    small = load(folder, ATTENTION.build())
    refused(folder, "Give an instance with the original sizes", PlanError, small)


def test_other_ties_are_refused(folder: Path) -> None:
    model = ATTENTION.build()
    model.pieces[0].out.bias = model.head.bias = torch.nn.Parameter(torch.zeros(8))
    refused(folder, "does not fit|are one tensor", PlanError, model)
