"""Example inputs for models named by text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from prunus.errors import ModelError, OptionError
from prunus.experiments.sources.examples import example_inputs, parse_shape


def transformer(main: str, **config: Any) -> nn.Module:
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(**config)  # type: ignore[assignment]
    model.main_input_name = main  # type: ignore[assignment]
    return model


def test_shapes_win_over_what_the_source_knows() -> None:
    given = example_inputs("digits", nn.Linear(1, 1), ["1,1,8,8", "3:int", "2:bool"])
    assert [(tuple(t.shape), t.dtype) for t in given] == [
        ((1, 1, 8, 8), torch.float32),
        ((3,), torch.int64),
        ((2,), torch.bool),
    ]
    assert torch.equal(parse_shape("4,4"), parse_shape("4,4")), "the same noise each time"


def test_a_workload_brings_its_own() -> None:
    (images,) = example_inputs("digits", nn.Linear(1, 1))
    assert images.shape[1:] == (1, 8, 8)


def test_timm_says_its_size() -> None:
    model = nn.Linear(1, 1)
    model.pretrained_cfg = {"input_size": (3, 96, 96)}  # type: ignore[assignment]
    (images,) = example_inputs("timm:any", model)
    assert images.shape == (1, 3, 96, 96)


def test_a_text_model_gets_ids_below_its_vocabulary() -> None:
    inputs = example_inputs("hf:x", transformer("input_ids", vocab_size=7, is_encoder_decoder=True))
    assert set(inputs) == {"input_ids", "decoder_input_ids"}
    assert inputs["input_ids"].dtype == torch.int64
    assert inputs["input_ids"].max() < 7
    longer = example_inputs("hf:x", transformer("input_ids", vocab_size=7), ["2,40"])
    assert (longer["input_ids"].shape, longer["input_ids"].dtype) == ((2, 40), torch.int64)


def test_images_sound_and_both_come_from_the_config() -> None:
    vision = {"image_size": 32, "num_channels": 1}
    assert example_inputs("hf:x", transformer("pixel_values", **vision))["pixel_values"].shape == (1, 1, 32, 32)
    both = transformer("input_ids", vision_config=SimpleNamespace(**vision), text_config=SimpleNamespace(vocab_size=9))
    assert {k: tuple(v.shape) for k, v in example_inputs("hf:x", both).items()} == {
        "input_ids": (1, 16),
        "pixel_values": (1, 1, 32, 32),
    }
    heard = transformer("input_features", num_mel_bins=8, max_source_positions=10)
    assert example_inputs("hf:x", heard)["input_features"].shape == (1, 8, 20)
    assert example_inputs("hf:x", transformer("input_values"))["input_values"].ndim == 2


@pytest.mark.parametrize("text", ["", "1,x", "1,0", "1,-2", "1.5", "1,2:half", ":int", "1,,2"])
def test_a_shape_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(OptionError, match=r"--input-shape: got .*allowed: whole numbers"):
        parse_shape(text)


def test_nothing_known_asks_for_a_shape() -> None:
    with pytest.raises(ModelError, match="add --input-shape"):
        example_inputs("net.py:build", nn.Linear(1, 1))
    with pytest.raises(ModelError, match="'strange' is not known"):
        example_inputs("hf:x", transformer("strange"))
    with pytest.raises(OptionError, match="got 2 shapes"):
        example_inputs("hf:x", transformer("input_ids", vocab_size=7), ["1,2", "1,2"])
