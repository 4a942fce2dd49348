"""Damage as hypothesis draws it: bytes of a file, or values of its JSON with every checksum made right again."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from prunus.exporters.program_archive import SUMS, add_sums
from prunus.foundation.checksum import EMPTY, KEY, SUM, summed_file, with_sum

Draw = Callable[[Any], Any]
Files = dict[str, bytes]

_NESTED: Any = []
for _ in range(200):
    _NESTED = [_NESTED]
ODD: list[Any] = [
    *(None, True, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 1.5, -0.0, 1e308, "", "a", "0", "0-99999999999"),
    *("5-2", "../../etc/passwd", "/dev/zero", "__import__('os').system('true')", "x=1, y", "lambda", "torch.hub.load"),
    *("aten.from_file.default", "torch.ops.aten.from_file.default", "aten.relu.default", "float32", "load", "nan"),
    *("Symbol('s0', integer=True)", "LShift(Integer(1), Integer(99999999))", "weight_0", "\ud800", "é" * 9, "x" * 5000),
    *([], {}, [[]], [None] * 50, _NESTED, {"": {}}, {"ref": ["x", 0]}, {"tuple": ["*"]}, {"float": "inf"}),
    *({"opaque": 0, "type": "a"}, {"__enum__": True, "fqn": "os:system", "name": "a"}, {"device": "cuda:99"}),
    *({"registered": [], "type": "collections.OrderedDict", "context": '[{"__en\\u0075m__": 1}]'}, {"as_int": 10**12}),
    *({"as_expr": {"expr_str": "Integer(-3)"}}, {"$tensor": "0"}, {"$tuple": 3}, {"$pairs": [[{"a": 1}, 2]]}),
]
_ATOMS = st.one_of(
    st.sampled_from(ODD), st.integers(), st.integers(-3, 70), st.floats(), st.text(max_size=8), st.booleans()
)
_OPERATIONS = st.sampled_from(("replace", "replace", "replace", "swap", "delete", "repeat", "rename", "nudge"))


def damaged_bytes(draw: Draw, content: bytes) -> bytes:
    """Return bytes with a few of them changed, removed, put in or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(("set", "flip", "insert", "remove", "cut", "copy")))
        if what == "cut" or not data:
            del data[at:]
        elif what == "set":
            data[at] = draw(st.integers(0, 255))
        elif what == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif what == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at:at] = data[: draw(st.integers(1, 200))]
    return bytes(data)


def edited(draw: Draw, value: Any) -> Any:
    """Return parsed JSON with one to three of its values changed; those of the file itself are put elsewhere too."""
    whole = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(whole) if place[0] is not whole or draw(st.integers(0, 30)) == 0]
        if not places:
            break
        owner, key = places[draw(st.integers(0, len(places) - 1))]
        _change(draw, owner, key, places)
    return whole[0] if whole else None


def _change(draw: Draw, owner: Any, key: Any, places: list[Any]) -> None:
    what = draw(_OPERATIONS)
    if what == "delete":
        del owner[key]
    elif what == "swap":
        other, name = places[draw(st.integers(0, len(places) - 1))]
        owner[key] = copy.deepcopy(other[name])
    elif what == "repeat" and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(owner[key]))
    elif what == "rename" and isinstance(owner, dict):
        owner[draw(st.one_of(st.text(max_size=5), st.sampled_from([o for o in ODD if isinstance(o, str)])))] = (
            owner.pop(key)
        )
    elif what == "nudge" and type(owner[key]) in (int, float):
        owner[key] += draw(st.sampled_from((-1, 1, 100, 10**9)))
    else:
        owner[key] = copy.deepcopy(draw(_ATOMS))  # later edits reach into it


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        owner = waiting.pop()
        keys = list(owner) if isinstance(owner, dict) else range(len(owner))
        found += [(owner, key) for key in keys]
        waiting += [owner[key] for key in keys if isinstance(owner[key], dict | list)]
    return found


def as_json(value: Any) -> bytes:
    """Return the text of a value; texts that have no UTF-8 form stay escaped."""
    return json.dumps(value).encode()


def edited_json(draw: Draw, content: bytes) -> bytes:
    """Return JSON with some of its values changed, and its checksum right."""
    return as_json(summed(edited(draw, json.loads(content))))


def summed(value: Any) -> Any:
    """Return parsed JSON with a right checksum where it holds one."""
    return with_sum(value) if isinstance(value, dict) and SUM in value else value


def edited_tensors(draw: Draw, content: bytes) -> bytes:
    """Return a safetensors file with its table of contents changed: names, types, sizes, places, metadata.

    A checksum of the whole file is made right again.
    """
    size = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + size])
    about = table.get("__metadata__", {})
    inner = sorted(key for key, text in about.items() if text.startswith(("{", "[")))
    if inner and draw(st.booleans()):
        key = inner[draw(st.integers(0, len(inner) - 1))]
        about[key] = json.dumps(edited(draw, json.loads(about[key])))
    else:
        table = edited(draw, table)
    about = table.get("__metadata__") if isinstance(table, dict) else None
    if isinstance(about, dict) and KEY in about:
        about[KEY] = EMPTY
    text = json.dumps(table, separators=(",", ":")).encode()
    return summed_file(len(text).to_bytes(8, "little") + text + content[8 + size :])


def with_checksums(files: Files) -> Files:
    """Return the files of a checkpoint with the checksums that its header should hold."""
    header = json.loads(files["checkpoint.json"])
    if isinstance(header, dict) and isinstance(header.get("files"), dict):
        for name, mark in header["files"].items():
            if name in files and isinstance(mark, dict):
                mark.update(size_bytes=len(files[name]), sha256=hashlib.sha256(files[name]).hexdigest())
        header = summed(header)
    return {**files, "checkpoint.json": as_json(header)}


def edited_archive(draw: Draw, content: bytes, texts: tuple[str, ...]) -> bytes:
    """Return a `.pt2` file with one of its JSON entries changed, or the bytes of a tensor, and right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = [name for name in old.namelist() if not name.endswith(SUMS)]
        chosen = texts[draw(st.integers(0, len(texts) - 1))]
        for name in names:
            entry = old.read(name)
            if name.endswith(chosen):
                entry = edited_json(draw, entry)
            new.writestr(name, entry)
    if len(names) < len(old.namelist()):
        add_sums(out)
    return out.getvalue()
