"""Cut Hugging Face models take the calls of the dense ones: labels, padded masks, caches, generate, other lengths."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from factories_own_forward import keep_forward
from factories_transformers import transformers

WORDS = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(batch * length))


def cut_model(kind: str, **more: Any) -> nn.Module:
    library = transformers()
    torch.manual_seed(0)
    if kind == "bert":
        config = library.BertConfig(
            hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, **WORDS
        )
        model = library.BertForSequenceClassification(config)
        inputs = {"input_ids": ids(2, 9), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 8}
        attention = more.get("attention", "sdpa")
        config = library.LlamaConfig(num_key_value_heads=4, attn_implementation=attention, **sizes, **WORDS)
        model = library.LlamaForCausalLM(config)
        inputs = {"input_ids": ids(2, 9)}
    done = keep_forward(model.eval(), inputs)
    small: nn.Module = done.model.eval()
    return small


def test_a_classifier_takes_labels_and_padding_at_any_length() -> None:
    small = cut_model("bert")
    words, mask = ids(3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[:, 7:] = 0
    with torch.no_grad():
        padded = small(input_ids=words, attention_mask=mask).logits
        plain = small(input_ids=words[:, :7], attention_mask=mask[:, :7]).logits
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-5)
    small.train()
    loss = small(input_ids=words, attention_mask=mask, labels=torch.tensor([0, 1, 1])).loss
    loss.backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in small.parameters())
    torch.testing.assert_close(pickle.loads(pickle.dumps(small.eval()))(words).logits, small(words).logits)
    assert small(words, output_hidden_states=True).hidden_states[-1].shape[:2] == (3, 12)
    assert small.bfloat16()(words).logits.dtype is torch.bfloat16


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_causal_model_generates_and_steps_with_its_cache(attention: str) -> None:
    small = cut_model("llama", attention=attention)
    words = ids(2, 11)
    with torch.no_grad():
        whole = small(words).logits[:, -1]
        first = small(words[:, :-1], use_cache=True)
        step = small(words[:, -1:], past_key_values=first.past_key_values).logits[:, -1]
        torch.testing.assert_close(step, whole, rtol=1e-4, atol=1e-5)
        for how in ({}, {"num_beams": 2}):
            made = small.generate(input_ids=words, max_new_tokens=3, do_sample=False, pad_token_id=0, **how)
            again = copy.deepcopy(small).generate(
                input_ids=words, max_new_tokens=3, do_sample=False, pad_token_id=0, **how
            )
            assert torch.equal(made, again)
    assert small(words, labels=words).loss.isfinite()
    assert small(words, return_dict=False)[0].shape == (2, 11, 60)
    short = small(words[:, :5], attention_mask=torch.ones(2, 5, dtype=torch.long)).logits
    torch.testing.assert_close(short, small(words).logits[:, :5], rtol=1e-4, atol=1e-5)
