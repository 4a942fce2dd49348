"""The readers of results, of the log of a comparison, of caches, and of Hugging Face folders."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import prunus
from fuzz.damage import Draw, Files, damaged_bytes, edited, edited_json, edited_tensors
from fuzz.reader import Net, Reader, files_of, told_apart
from prunus.errors import DataError

# Results of comparisons, and the log of one that was interrupted


def _write_results(place: Path) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
    from factories_results import make_results

    make_results().save(place / "results.json")


def _draw_json(name: str, same: bool) -> Callable[[Draw, Files], tuple[Files, bool]]:
    """Return the draw of one JSON file among others; ``same``: damaged bytes have to load as the sound ones."""

    def drawn(draw: Draw, files: Files) -> tuple[Files, bool]:
        if draw(st.booleans()):
            return {**files, name: damaged_bytes(draw, files[name])}, same
        return {**files, name: edited_json(draw, files[name])}, False

    return drawn


def _read_results(folder: Path) -> Any:
    from prunus.report.html import render_report
    from prunus.report.results import Results

    results = Results.load(folder / "results.json")
    render_report(results)
    return results.to_json()


def _recipe() -> Any:
    from prunus.experiments.recipe import demo_recipe

    return demo_recipe()


def _write_runs(place: Path) -> None:
    from prunus.experiments.finished_runs import FinishedRuns
    from prunus.report.results import Skipped

    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
    from factories_results import make_row

    runs = FinishedRuns.of(_recipe(), place)
    runs.add("abc", (0, "importance", 0.3), make_row("importance", 0.3, 0))
    runs.add("abc", (0, "wanda", 0.3), Skipped("wanda", 0.3, "out of reach"))


def _draw_runs(draw: Draw, files: Files) -> tuple[Files, bool]:
    name = next(iter(files))
    if draw(st.booleans()):
        return {name: damaged_bytes(draw, files[name])}, False
    lines = []
    for line in filter(None, files[name].decode().splitlines()):
        run = edited(draw, json.loads(line)["run"])
        digest = hashlib.sha256(json.dumps(run).encode()).hexdigest()
        lines.append(json.dumps({"sha256": digest, "run": run}))
    return {name: "\n".join(lines).encode()}, False


def _read_runs(folder: Path) -> Any:
    from prunus.experiments.finished_runs import FinishedRuns

    runs = FinishedRuns.of(_recipe(), folder)
    places = [("importance", 0.3), ("wanda", 0.3)]
    if runs.weights_of(0, places) is None:
        raise DataError("a line was left out")  # and its run is made again
    return None


# Trained weights and op times in the cache


def _write_trained(place: Path) -> None:
    from prunus.experiments.workloads.store import FORMAT, EpochScore, TrainingRecord, write_trained
    from prunus.foundation.cache import checksum

    torch.manual_seed(0)
    model = Net()
    about = (
        "0",
        "2",
        "digits",
        0,
        {"steps": 4},
        "key",
        1,
        80,
        (EpochScore(1, 0.5, 0.7),),
        0.5,
        0.5,
        0.7,
        (1.0,),
        2.0,
        1,
    )
    record = TrainingRecord(FORMAT, *about, checksum(model.state_dict()))
    write_trained(place / "trained", model, record)


def _draw_trained(draw: Draw, files: Files) -> tuple[Files, bool]:
    name = draw(st.sampled_from(sorted(files)))
    if draw(st.booleans()):
        return {**files, name: damaged_bytes(draw, files[name])}, False
    edit = edited_json if name.endswith(".json") else edited_tensors
    return {**files, name: edit(draw, files[name])}, False


def _read_trained(folder: Path) -> Any:
    from prunus.experiments.workloads.store import read_trained

    if read_trained(folder / "trained") is None:
        raise DataError("trained again")
    return None


@functools.cache
def _timed_program() -> Any:
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    torch.manual_seed(0)
    return couple(capture(Net().eval(), torch.randn(2, 1, 4, 4)))


def _op_times(folder: Path, measure: Callable[[], Any]) -> Any:
    from prunus.measurement.timing.table import kept_times

    coupling = _timed_program()
    keeps = [{a.id: np.arange(a.size) >= cut for a in coupling.axes.values()} for cut in (0, 2)]
    before = os.environ.get("PRUNUS_CACHE")
    os.environ["PRUNUS_CACHE"] = str(folder)
    try:
        return kept_times(coupling, keeps, 3, 1, measure)
    finally:
        os.environ.pop("PRUNUS_CACHE")
        if before is not None:
            os.environ["PRUNUS_CACHE"] = before


def _write_times(place: Path) -> None:
    from prunus.measurement.timing.sampling import OpTimes, timed_nodes

    nodes = timed_nodes(_timed_program().graph)
    _op_times(place, lambda: OpTimes(nodes, np.ones((2, len(nodes))), 0.5, (0.7, 0.6)))


def _draw_times(draw: Draw, files: Files) -> tuple[Files, bool]:
    from safetensors.torch import load

    from prunus.foundation.cache import summed_bytes

    ((name, content),) = files.items()
    if draw(st.booleans()):
        return {name: damaged_bytes(draw, content)}, True
    tensors = load(content)
    for key in draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True)):
        value = tensors.pop(key)
        what = draw(st.sampled_from(("remove", "rename", "shape", "type", "nan", "fewer")))
        if what == "rename":
            tensors[draw(st.sampled_from(("seconds", "a", "", "model_seconds", "é")))] = value
        elif what == "shape":
            tensors[key] = value.reshape(-1, *[1] * draw(st.integers(0, 3))).clone()
        elif what == "type":
            tensors[key] = value.to(draw(st.sampled_from((torch.int8, torch.float32, torch.bool, torch.bfloat16))))
        elif what == "nan":
            tensors[key] = value * draw(st.sampled_from((float("nan"), float("inf"), -1.0)))
        elif what == "fewer":
            tensors[key] = value.reshape(-1)[: draw(st.integers(0, 2))].clone()
    return {name: summed_bytes({k: v for k, v in tensors.items() if v.dtype != torch.bfloat16})}, False


def _read_times(folder: Path) -> Any:
    def again() -> Any:
        raise DataError("timed again")

    found = _op_times(folder, again)
    return found.seconds.sum().item(), found.model_seconds, len(found.cut_ratios)


# Hugging Face folders


def _write_huggingface(place: Path) -> None:
    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()  # transformers imports it where it is installed
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, num_key_value_heads=2, **sizes)).eval()
    result = prunus.prune(model, torch.arange(8)[None], budget={"params": 0.8}, config_ties=True)
    prunus.save(result, place / "hf", format="huggingface")


def _draw_huggingface(draw: Draw, files: Files) -> tuple[Files, bool]:
    name = draw(
        st.sampled_from(("hf/config.json", "hf/config.json", "hf/model.safetensors", "hf/generation_config.json"))
    )
    content = files.get(name, b"{}")
    if draw(st.booleans()):
        return {**files, name: damaged_bytes(draw, content)}, False
    edit = edited_json if name.endswith(".json") else edited_tensors
    return {**files, name: edit(draw, content)}, False


def _read_huggingface(folder: Path) -> Any:
    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()
    return told_apart(prunus.load(folder / "hf").state_dict())


MORE: dict[str, Reader] = {
    "results": Reader(lambda: [files_of(_write_results)], _draw_json("results.json", same=True), _read_results),
    "runs": Reader(lambda: [files_of(_write_runs)], _draw_runs, _read_runs),
    "trained": Reader(lambda: [files_of(_write_trained)], _draw_trained, _read_trained),
    "times": Reader(lambda: [files_of(_write_times)], _draw_times, _read_times),
    "huggingface": Reader(lambda: [files_of(_write_huggingface)], _draw_huggingface, _read_huggingface),
}
"""Each reader by its name."""
