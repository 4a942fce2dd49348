"""A `.pt2` file is data: whatever stands in it, loading runs nothing, imports nothing and opens nothing else."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import ModelError
from prunus.exporters import load
from prunus.exporters.allowed_ops import COMPUTING, REFUSED_NAMESPACES
from prunus.exporters.program_archive import MODEL, SUMS, TEXT_LIMIT, add_sums
from prunus.exporters.size_expressions import parse_size

WEIGHTS = "data/weights/model_weights_config.json"


class Viewing(nn.Module):
    """Holds a size that follows the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).view(x.shape[0], -1).relu())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = prunus.prune(Viewing(), torch.randn(2, 4), budget={"params": 0.6})
    return prunus.save(result, tmp_path_factory.mktemp("pt2") / "whole.pt2").read_bytes()


def changed(data: bytes, entry: str, change: Callable[[Any], Any]) -> bytes:
    """Return the file with one JSON entry changed; its checksums are right, as an attacker's would be."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in (name for name in old.namelist() if not name.endswith(SUMS)):
            content = old.read(name)
            if name.endswith(entry):
                found = json.loads(content)
                content = json.dumps(change(found) or found).encode()
            new.writestr(name, content)
    add_sums(out)
    return out.getvalue()


def added(data: bytes, name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return the file with one more entry."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(f"archive/{name}", content, method)
    return out.getvalue()


def refused(data: bytes, match: str, place: Path) -> None:
    path = place / "evil.pt2"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (place / "RAN").exists()


RUN = "__import__('os').system('touch RAN')"


def nodes(model: Any) -> Any:
    return model["graph_module"]["graph"]["nodes"]


def node(model: Any, op: str) -> Any:
    return next(n for n in nodes(model) if f".{op}." in n["target"])


def signature(model: Any) -> Any:
    return model["graph_module"]["module_call_graph"][0]["signature"]


def expression(model: Any, text: str) -> None:
    model["graph_module"]["graph"]["sym_int_values"]["sym_size_int_1"]["as_expr"]["expr_str"] = text


def structure(model: Any, kind: str, context: Any, which: str = "out_spec") -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    signature(model)[which] = json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


def argument(model: Any, kind: Any) -> None:
    node(model, "relu")["inputs"][0]["arg"] = kind


ENUM = '[{"__enum__": true, "fqn": "evil_imported:X", "name": "a"}]'
ENUM_ESCAPED = '[{"__en\\u0075m__": true, "fqn": "evil_imported:X", "name": "a"}]'
FACTORY = {"default_factory_module": "evil_imported", "default_factory_name": "x", "dict_context": ["a"]}
KEYWORDS = [
    1,
    {
        "type": "builtins.tuple",
        "context": "null",
        "children_spec": [
            {"type": "builtins.tuple", "context": "null", "children_spec": []},
            {
                "type": "builtins.dict",
                "context": json.dumps([f"x={RUN}, y"]),
                "children_spec": [{"type": None, "context": None, "children_spec": []}],
            },
        ],
    },
]
LEFT = "LShift(Integer(1), Integer(9999999999))"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: expression(m, RUN), "that no size has"),
        (lambda m: expression(m, f"Symbol({RUN})"), "that no size has"),
        (lambda m: expression(m, "sympify(Symbol('s77'))"), "that no size has"),
        (lambda m: expression(m, LEFT), "that no size has"),
        (lambda m: expression(m, "Add(" * 3000), "that no size has"),
        (lambda m: expression(m, "Integer(1)" + " " * 20000), "of 20,010 characters"),
        (lambda m: structure(m, "builtins.list", ENUM), "names an enumeration"),
        (lambda m: structure(m, "collections.OrderedDict", ENUM_ESCAPED), "names an enumeration"),
        (lambda m: structure(m, "collections.defaultdict", FACTORY), "a defaultdict with the factory 'x'"),
        (lambda m: structure(m, "evil_imported.Type", "null"), "import its module before loading"),
        (lambda m: structure(m, "builtins.dict", '["a", "b"]'), "other keys than parts"),
        (lambda m: signature(m).update(in_spec=json.dumps(KEYWORDS)), "is no name of a value"),
        (lambda m: signature(m).update(forward_arg_names=[f"x={RUN}"]), "is no name of a value"),
        (lambda m: node(m, "relu").update(target="torch.hub.load"), "which no network needs"),
        (lambda m: node(m, "relu").update(target="torch.ops.aten.from_file.default"), "which no network needs"),
        (lambda m: node(m, "relu").update(target="torch.ops.higher_order.invoke_subgraph"), "as an op; allowed"),
        (lambda m: node(m, "relu").update(target="_operator.attrgetter"), "which no network needs"),
        (lambda m: node(m, "relu").update(target="math.factorial"), "which no network needs"),
        (lambda m: node(m, "relu").update(target="#evil:x"), "which no network needs"),
        (lambda m: node(m, "relu").update(name=f"x={RUN}"), "is no name of a value"),
        (lambda m: argument(m, {"as_operator": "torch.hub.load"}), "an object that is no tensor"),
        (lambda m: argument(m, {"as_custom_obj": {"name": "a", "class_fqn": "b"}}), "an object that is no tensor"),
        (lambda m: argument(m, {"as_everything": 1}), "is no Argument"),
        (lambda m: argument(m, {"as_tensor": {"name": "view", "more": 1}}), "has no 'more' in this version of torch"),
        (lambda m: m["range_constraints"].update({"u99999999999": {"min_val": 1, "max_val": 2}}), "is no symbol"),
        (lambda m: m.update(verifiers=["os"]), "the verifiers"),
        (lambda m: m["graph_module"]["signature"]["input_specs"].pop(0), "is damaged"),
        (lambda m: m["graph_module"]["graph"].pop("nodes"), "without its 'nodes'"),
    ],
)
def test_nothing_in_the_program_runs(
    whole: bytes, change: Callable[[Any], Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_imported.py").write_text("open('RAN', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    refused(changed(whole, MODEL, lambda m: change(m) and None), match, tmp_path)
    assert "evil_imported" not in sys.modules


def test_guards_and_notes_in_the_file_never_become_code(whole: bytes, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model["guards_code"] = [RUN]
        model["graph_module"]["metadata"] = {"custom": "{}"}
        node(model, "relu")["metadata"].update(source_fn_stack="a,torch.hub.load", from_node="[]", custom="{}")

    path = tmp_path / "odd.pt2"
    path.write_bytes(changed(whole, MODEL, change))
    found, plain = load(path), tmp_path / "plain.pt2"
    plain.write_bytes(whole)
    x = torch.randn(3, 4)
    assert torch.equal(found(x), load(plain)(x))
    relu = next(n for n in found.graph.nodes if n.name == "relu")  # type: ignore[union-attr]
    assert not {"source_fn_stack", "custom"} & set(relu.meta)


def tensor(config: Any) -> Any:
    return config["config"]["up.weight"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: tensor(c).update(use_pickle=True), "pickled objects or code"),
        (lambda c: tensor(c).update(path_name="../../models/model.json"), "pickled objects or code"),
        (lambda c: tensor(c).update(path_name="custom_obj_0"), "pickled objects or code"),
        (lambda c: tensor(c).update(tensor_meta=None), "pickled objects or code"),
        (lambda c: tensor(c)["tensor_meta"].update(storage_offset={"as_int": 4}), "longer than its 64 bytes"),
        (lambda c: tensor(c)["tensor_meta"].update(storage_offset={"as_int": -1}), "has a negative size"),
        (lambda c: tensor(c)["tensor_meta"].update(sizes=[{"as_int": 5}, {"as_int": 4}]), "longer than its 64 bytes"),
        (lambda c: tensor(c)["tensor_meta"].update(dtype=8), "longer than its 64 bytes"),
        (lambda c: tensor(c)["tensor_meta"].update(dtype=99), "is no ScalarType"),
        (lambda c: tensor(c)["tensor_meta"].update(dtype=6), "the program reads another tensor"),
        (lambda c: tensor(c)["tensor_meta"].update(layout=1), "is no dense tensor"),
        (lambda c: tensor(c)["tensor_meta"]["device"].update(type="privateuseone"), "is no device"),
        (lambda c: c["config"].pop("up.weight"), "'up.weight', which is not stored"),
        (lambda c: c["config"].update({"up.weight": 1}), "expected an object"),
    ],
)
def test_tensors_lie_inside_their_bytes(whole: bytes, change: Callable[[Any], Any], match: str, tmp_path: Path) -> None:
    refused(changed(whole, WEIGHTS, lambda c: change(c) and None), match, tmp_path)


def test_a_small_file_never_becomes_a_large_tensor(whole: bytes, tmp_path: Path) -> None:
    def change(config: Any) -> None:
        meta = tensor(config)["tensor_meta"]
        meta.update(sizes=[{"as_int": 10**6}, {"as_int": 10**6}], strides=[{"as_int": 0}, {"as_int": 0}])

    refused(changed(whole, WEIGHTS, change), "is far larger than its bytes", tmp_path)


@pytest.mark.parametrize(
    ("name", "method", "match"),
    [
        ("data/sample_inputs/other.pt", zipfile.ZIP_STORED, "pickled objects or code"),
        ("data/constants/custom_obj_0", zipfile.ZIP_STORED, "pickled objects or code"),
        ("data/constants/opaque_obj_0", zipfile.ZIP_STORED, "pickled objects or code"),
        ("data/aotinductor/model/run.so", zipfile.ZIP_STORED, "pickled objects or code"),
        ("models/other.json", zipfile.ZIP_STORED, "pickled objects or code"),
        ("../../../../tmp/evil", zipfile.ZIP_STORED, "pickled objects or code"),
        ("data/weights/weight_9", zipfile.ZIP_DEFLATED, "compressed or encrypted"),
        (MODEL, zipfile.ZIP_STORED, "holds 'archive/models/model.json' twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_are_a_closed_list(whole: bytes, name: str, method: int, match: str, tmp_path: Path) -> None:
    refused(added(whole, name, b"\0" * 10_000, method), match, tmp_path)


def test_texts_have_a_limit(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TEXT_LIMIT == 64 << 20
    monkeypatch.setattr("prunus.exporters.program_archive.TEXT_LIMIT", 1000)
    path = tmp_path / "long.pt2"
    path.write_bytes(whole)
    with pytest.raises(ModelError, match=r"bytes long; at most 1,000 are read"):
        load(path)


def test_another_machine_and_no_file(whole: bytes, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    refused(out.getvalue(), "has another byteorder than 'little'", tmp_path)
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        load(tmp_path / "none.pt2")


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s0', positive=True, integer=True))",
        "Add(Integer(-1), Pow(Symbol('s0', integer=True), Integer(2)))",
        "FloorDiv(Add(Symbol('s0', integer=True), Integer(3)), Integer(2))",
        "Equality(Mod(Symbol('s0', integer=True), Integer(2)), Integer(0))",
        "Max(Integer(1), Symbol('u0', integer=True))",
        "Rational(1, 2)",
        "Float('0.5', precision=53)",
        "true",
    ],
)
def test_expressions_are_read_as_sympy_reads_them(text: str) -> None:
    import sympy
    from torch.utils._sympy import functions

    own = {"FloorDiv": functions.FloorDiv, "Mod": functions.Mod}
    assert parse_size(text) == sympy.sympify(text, locals=own)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s0",
        "1",
        "Integer(1))",
        "Integer('1')",
        "Integer(1, 2)",
        "Rational(1, 0)",
        "Symbol('s0', evil=True)",
        "Symbol('os.system')",
        "Symbol(Symbol('s0'))",
        "Add(1, 2)",
        "Add('a')",
        "Float('1e999999', precision=53)",
        "Pow(Integer(10), Integer(999))",
        "Pow(Pow(Symbol('s0'), Integer(8)), Integer(8))",
        "Pow(Integer(2), Symbol('s0'))",
        "LShift(Integer(1), Symbol('s0'))",
        "Integer(999999999999999999999999)",
        f"Max({', '.join(['Integer(1)'] * 20)})",
        "Lambda(Symbol('s0'), Symbol('s0'))",
        "Symbol(__import__('os').system('true'))",
    ],
)
def test_the_grammar_is_closed(text: str) -> None:
    with pytest.raises(ValueError, match="that no size has"):
        parse_size(text)


def test_every_namespace_of_torch_is_in_one_of_both_lists() -> None:
    """A version of torch with a new one is looked at before its ops are allowed."""
    code = "import torch; print(*{n.split('::')[0] for n in torch._C._dispatch_get_all_op_names()})"
    import subprocess

    found = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "aten" in found
    assert not found - COMPUTING - REFUSED_NAMESPACES
    assert not COMPUTING & REFUSED_NAMESPACES
