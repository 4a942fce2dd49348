"""``prunus inspect MODEL``: its modules, the axes that can be cut, and what is frozen and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.options import DebugOption, ForwardOption
from prunus.foundation.defaults import DEFAULTS

_MODEL = "torchvision:NAME, timm:NAME, hf:PATH, package.module:callable, file.py:callable, or a built-in name."


def inspect(
    model: Annotated[str, typer.Argument(help=_MODEL, show_default=False)],
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="Shape of an argument, such as 1,3,224,224 or 1,16:int; once for each argument."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors or .pt state dict to load.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, not as a tree.")] = False,
    graph: Annotated[
        Path | None, typer.Option(help="Draw the graph: .svg, .png or .pdf (needs Graphviz), or .dot.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=0, help="How many levels of modules to show; deeper ones are summed up.")
    ] = None,
    forward: ForwardOption = None,
    numbers: Annotated[bool, typer.Option("--numbers", help="List every number in the code with its origin.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show a model's modules, their cost, which axes can be removed, and what is frozen and why."""
    from prunus.graph.render import check_picture, draw_to

    if graph is not None:
        check_picture(graph)
    from prunus.experiments.sources import resolve_model
    from prunus.experiments.sources.examples import example_inputs
    from prunus.report.inspection import inspect_model, print_inspection

    network = resolve_model(model, checkpoint=None if checkpoint is None else str(checkpoint))
    inputs = example_inputs(model, network, input_shape or ())
    found = inspect_model(network, inputs, name=model, forward=forward or DEFAULTS.forward)
    if json:
        sys.stdout.write(found.to_json())
    else:
        print_inspection(found, depth=depth, numbers=numbers)
    if graph is not None:
        from prunus.graph.capture import capture
        from prunus.graph.coupling import couple

        coupling = couple(capture(network, inputs))
        sys.stderr.write(f"graph: {draw_to(coupling, graph, depth=depth)}\n")
