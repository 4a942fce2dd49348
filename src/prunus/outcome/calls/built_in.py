"""The calls of the built-in table, in their order; each makes one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.overrides import TorchFunctionMode

from prunus.exporters.exported_reading import silent
from prunus.outcome.calls.comparing import distance
from prunus.outcome.calls.inputs import (
    export_call,
    forward_names,
    labels_for,
    other_batches,
    with_batch,
    with_image_size,
    with_length,
    with_mask,
)
from prunus.outcome.calls.learning import backward, trained_once
from prunus.outcome.calls.pair import HALF, SINGLE, NotTaken, Pair, Run, call_of
from prunus.outcome.calls.record import DIFFERS, OK, Row
from prunus.outcome.calls.subject import Subject
from prunus.surgery.rewriting.recapture import batch_size

Made = Callable[[Subject, str], Row]
CALLS: dict[str, Made] = {}
"""Name of the call → function that makes its row; in the order of the table."""

_NEW = 6
"""The number of generated tokens."""


def call(name: str) -> Callable[[Made], Made]:
    """Enter a call into the table."""

    def enter(made: Made) -> Made:
        CALLS[name] = made
        return made

    return enter


@call("eval")
def _eval(it: Subject, name: str) -> Row:
    pair = it.pair()
    return pair.row(name, call_of(pair.args, pair.kwargs))


@call("train, backward")
def _train(it: Subject, name: str) -> Row:
    pair = it.pair()
    return pair.row(name, backward(call_of(pair.args, pair.kwargs)), one_number=True)


def _batch(number: int) -> Made:
    def made(it: Subject, name: str) -> Row:
        pair = it.pair()
        size = other_batches(pair)[number]
        return pair.row(name, call_of(*with_batch(pair, size)), reason=f"batch {size}")

    return made


call("other batch")(_batch(0))
call("another batch")(_batch(1))


@call("shorter")
def _shorter(it: Subject, name: str) -> Row:
    return it.pair().row(name, call_of(*with_length(it.pair(), longer=False)))


@call("longer")
def _longer(it: Subject, name: str) -> Row:
    return it.pair().row(name, call_of(*with_length(it.pair(), longer=True)))


@call("other image size")
def _image_size(it: Subject, name: str) -> Row:
    return it.pair().row(name, call_of(*with_image_size(it.pair())))


def _masked(dtype: torch.dtype) -> Made:
    def made(it: Subject, name: str) -> Row:
        return it.pair().row(name, call_of(*with_mask(it.dense, it.pair(), dtype)))

    return made


for _dtype, _kind in ((torch.long, "integers"), (torch.float32, "floats"), (torch.bool, "booleans")):
    call(f"padded mask, {_kind}")(_masked(_dtype))


@call("labels")
def _labels(it: Subject, name: str) -> Row:
    pair = it.pair()
    return pair.row(name, call_of(pair.args, {**pair.kwargs, "labels": _labels_of(it, pair)}))


def _labels_of(it: Subject, pair: Pair) -> torch.Tensor:
    """Return labels that the dense network takes.

    Raises:
        NotTaken: it takes no labels.
    """
    if "labels" not in forward_names(it.dense):
        raise NotTaken("its forward takes no labels")
    with torch.no_grad(), pair.computing():
        outputs = call_of(pair.args, pair.kwargs)(pair.dense())
    last: NotTaken = NotTaken("its forward takes no labels of the shapes that were tried")
    for labels in labels_for(outputs):
        wide = pair.wide(labels)
        try:
            pair.takes(_with_finite_loss(call_of(pair.args, {**pair.kwargs, "labels": wide})))
        except NotTaken as error:
            last = error
            continue
        return wide  # type: ignore[no-any-return]
    raise last


def _with_finite_loss(run: Run) -> Run:
    def checked(model: nn.Module) -> Any:
        outputs = run(model)
        if not bool(torch.isfinite(outputs["loss"]).all()):
            raise ValueError("the loss is not finite")
        return outputs

    return checked


@call("inputs_embeds")
def _embeds(it: Subject, name: str) -> Row:
    it.needs_transformers()
    pair = it.pair()
    if "inputs_embeds" not in forward_names(it.dense) or "input_ids" not in pair.kwargs:
        raise NotTaken("its forward takes no inputs_embeds")
    rest = {k: v for k, v in pair.kwargs.items() if k != "input_ids"}

    def run(model: nn.Module) -> Any:
        embed: Any = model.get_input_embeddings()  # type: ignore[operator]
        return call_of(pair.args, {**rest, "inputs_embeds": embed(pair.kwargs["input_ids"])})(model)

    return pair.row(name, run)


@call("output_hidden_states")
def _hidden(it: Subject, name: str) -> Row:
    return _with(it, name, output_hidden_states=True)


@call("output_attentions")
def _attentions(it: Subject, name: str) -> Row:
    it.needs_transformers()
    pair = it.pair()
    run = call_of(pair.args, {**pair.kwargs, "output_attentions": True})
    return pair.row(name, _with_attention("eager", run))


@call("return_dict=False")
def _tuple(it: Subject, name: str) -> Row:
    return _with(it, name, return_dict=False)


def _with(it: Subject, name: str, **more: Any) -> Row:
    it.needs_transformers()
    pair = it.pair()
    return pair.row(name, call_of(pair.args, {**pair.kwargs, **more}))


@call("cache, two steps")
def _cache(it: Subject, name: str) -> Row:
    it.needs_transformers()
    pair = it.pair()
    stepped = "decoder_input_ids" if "decoder_input_ids" in pair.kwargs else "input_ids"
    ids = pair.kwargs.get(stepped)
    if ids is None or ids.dim() != 2 or ids.shape[1] < 3:
        raise NotTaken("there are no ids to take in two steps")
    if stepped == "decoder_input_ids":
        context = {"input_ids": pair.kwargs["input_ids"]} if "input_ids" in pair.kwargs else {}
    else:
        context = {}
    first = ids.shape[1] // 2 + 1

    def run(model: nn.Module) -> Any:
        one = model(**context, **{stepped: ids[:, :first]}, use_cache=True)
        kept = one.get("past_key_values")
        if kept is None:
            raise NotTaken("it returns no cache")
        two = model(**context, **{stepped: ids[:, first:]}, past_key_values=kept, use_cache=True)
        whole = model(**context, **{stepped: ids}, use_cache=False)
        return {"the second step": two[_answer(two)], "one step": whole[_answer(whole)][:, first:]}

    return pair.row(name, run)


def _answer(outputs: Any) -> str:
    return "logits" if "logits" in outputs else "last_hidden_state"


def _generate(**options: Any) -> Made:
    def made(it: Subject, name: str) -> Row:
        it.needs_transformers()
        can: Any = getattr(it.dense, "can_generate", None)
        if can is None or not can():
            raise NotTaken("it does not generate")
        pair = it.pair()
        given = {k: v for k, v in pair.kwargs.items() if k not in ("use_cache", "decoder_input_ids", "labels")}

        def run(model: nn.Module) -> Any:
            return model.generate(  # type: ignore[operator]
                **given, max_new_tokens=_NEW, min_new_tokens=_NEW, pad_token_id=0, **options
            )

        return pair.row(name, run, one_number=False)

    return made


call("generate, greedy")(_generate(do_sample=False, num_beams=1))
call("generate, beam")(_generate(do_sample=False, num_beams=3))
call("generate, sampled")(_generate(do_sample=True, num_beams=1))


@call("gradient checkpointing")
def _checkpointing(it: Subject, name: str) -> Row:
    # The recomputation runs outside the modes that convert literals to float64, so networks with literals take float32.
    if not (getattr(it.dense, "supports_gradient_checkpointing", False) or hasattr(it.dense, "set_grad_checkpointing")):
        raise NotTaken("it knows no gradient checkpointing")
    if it.surgery.spliced:
        raise NotTaken("not comparable: dropout stands in the forwards that were rewritten, and draws by shapes")
    pair = it.pair()

    def prepare(model: Any) -> None:
        if it.is_transformers:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.set_grad_checkpointing(True)

    return pair.row(name, backward(call_of(pair.args, pair.kwargs), prepare), one_number=True)


def _attention(kind: str) -> Made:
    def made(it: Subject, name: str) -> Row:
        it.needs_transformers()
        pair = it.pair()
        return pair.row(name, _with_attention(kind, call_of(pair.args, pair.kwargs)))

    return made


def _with_attention(kind: str, run: Run) -> Run:
    """Return a call with this attention implementation; the number of calls of torch's own kernel is a result too."""

    def changed(model: nn.Module) -> Any:
        model.set_attn_implementation(kind)  # type: ignore[operator]
        with _Counted() as counted:
            outputs = run(model)
        return {"": outputs, "the number of calls of torch's attention": torch.tensor(counted.calls)}

    return changed


class _Counted(TorchFunctionMode):
    """Counts calls of scaled_dot_product_attention."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            self.calls += 1
        return func(*args, **(kwargs or {}))


call("eager attention")(_attention("eager"))
call("sdpa attention")(_attention("sdpa"))


@call("bfloat16")
def _half(it: Subject, name: str) -> Row:
    pair = it.pair(torch.float32)
    half = torch.bfloat16

    def run(model: nn.Module) -> Any:
        args, kwargs = _narrowed(pair.args, half), _narrowed(pair.kwargs, half)
        return call_of(args, kwargs)(model.to(half))

    # The rounding error of the dense network in the narrow type bounds the tolerance of the cut one.
    plain = call_of(pair.args, pair.kwargs)
    exact, rough = (pair.expected(r, one_number=pair.it.random) for r in (plain, run))
    rounding = distance(exact, rough, pair.masks, pair.it).error
    note = f"the masked dense model itself rounds by {rounding:.1e}" if 2 * rounding > HALF else ""
    return pair.row(name, run, tolerance=max(HALF, 2 * rounding), reason=note)


def _narrowed(value: Any, dtype: torch.dtype) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, value)


@call("training step")
def _step(it: Subject, name: str) -> Row:
    pair = it.pair(torch.float32)
    try:
        run = call_of(pair.args, {**pair.kwargs, "labels": _labels_of(it, pair)})
        note = ""
    except NotTaken as why:
        run, note = call_of(pair.args, pair.kwargs), f"without labels: {why}"
    return pair.row(
        name,
        trained_once(run, pair.twin.mask_),
        cut=trained_once(run),
        one_number=True,
        tolerance=SINGLE,
        reason=note,
    )


@call("torch.export, dynamic")
def _export(it: Subject, name: str) -> Row:
    pair = it.pair(torch.float32)
    size = 3 if batch_size(pair.example()[0]) != 3 else 4
    changed = with_batch(pair, size)

    def run(model: nn.Module) -> Any:
        (args, kwargs), shapes = export_call(model, pair)
        with silent():
            program = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=shapes)
        args, kwargs = changed
        return program.module()(*args, **kwargs)

    pair.takes(run)
    return pair.row(name, call_of(*changed), cut=run, reason=f"run at batch {size}")


@call("forward hooks")
def _hooks(it: Subject, name: str) -> Row:
    pair = it.pair()
    run = call_of(pair.args, pair.kwargs)
    with torch.no_grad(), pair.computing():
        before, after = _fired(pair.dense(), run), _fired(pair.small, run)
    present = {path for path, _ in pair.small.named_modules()}
    removed = [path for path in before if path not in present]
    # A module of prunus.nn in the place of one of torch has other children, or none.
    shipped = tuple(f"{path}." for path in it.surgery.shipped)
    own = [path for path in before if path in present and not path.startswith(shipped or ("\n",))]
    now = [path for path in after if not path.startswith(shipped or ("\n",))]
    if own != now:
        at = next((i for i, (a, b) in enumerate(zip(own, now, strict=False)) if a != b), min(len(own), len(now)))
        one, two = (names[at] if at < len(names) else "nothing" for names in (own, now))
        return Row(name, DIFFERS, None, None, f"call {at} is of {two or 'the model'}, on the dense model of {one}")
    unplanned = [
        path for path in removed if not _below(path, it.surgery.removed) and not path.startswith(shipped or ("\n",))
    ]
    if unplanned:
        return Row(name, DIFFERS, None, None, f"{unplanned[0]} is not there any more")
    return Row(name, OK, 0.0, 0.0, f"{len(set(removed))} modules were removed" if removed else "")


def _fired(model: nn.Module, run: Run) -> list[str]:
    """Return the paths of the modules whose hooks fire, in their order."""
    fired: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: fired.append(path)) for path, module in model.named_modules()
    ]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return fired


def _below(path: str, removed: tuple[str, ...]) -> bool:
    return any(path == r or path.startswith(f"{r}.") for r in removed)


@call("state_dict names")
def _names(it: Subject, name: str) -> Row:
    before, after = it.dense.state_dict(), it.model.state_dict()
    missing = [n for n in before if n not in after and not _below(n, it.surgery.removed)]
    new = [n for n in after if n not in before]
    if missing or new:
        what = f"{missing[0]} is missing" if missing else f"{new[0]} is new"
        return Row(name, DIFFERS, None, None, what)
    gone = len(before) - len(after)
    return Row(name, OK, 0.0, 0.0, f"{gone} tensors of removed modules are gone" if gone else "")
