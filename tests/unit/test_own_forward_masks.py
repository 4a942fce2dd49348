"""A mask that the example does not have takes another path: the numbers there are mended too, or their axes held."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from factories_own_forward import keep_forward, terms_of


class Grouped(nn.Module):
    """Attention with shared keys: the kernel repeats them without a mask, the code does with one."""

    def __init__(self, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.repeats, self.head_dim = heads // shared, 6
        self.table = nn.Embedding(20, 24)
        self.q, self.out = nn.Linear(24, heads * 6), nn.Linear(heads * 6, 24)
        self.k, self.v = nn.Linear(24, shared * 6), nn.Linear(24, shared * 6)
        self.head = nn.Linear(24, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.table(ids)
        q, k, v = (m(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for m in (self.q, self.k, self.v))
        if mask is None:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = (t.repeat_interleave(self.repeats, 1) for t in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, mask[:, None, None].bool())
        out: Tensor = self.head(x + self.out(y.transpose(1, 2).flatten(2)))
        return out


class Written(nn.Module):
    """The path with a mask writes a width down, which the other does not."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = torch.relu(self.up(self.table(ids)))
        if mask is not None:
            x = x * mask[..., None].expand(-1, -1, 16)
        out: Tensor = self.down(x)
        return out


def ids() -> Tensor:
    return torch.arange(12).view(2, 6)


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_number_of_the_path_with_a_mask_is_mended(share: float) -> None:
    torch.manual_seed(0)
    done = keep_forward(Grouped(), (ids(),), share=share)
    mended = {m.name: m.new for m in done.surgery.mended}
    queries, keys = (getattr(done.model, n).out_features // 6 for n in ("q", "k"))
    assert mended.get("repeats", 2) == queries // keys
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0, -2:] = 0
    assert done.model(ids(), mask).shape == (2, 6, 3)


def test_an_axis_whose_size_the_path_with_a_mask_writes_down_is_held() -> None:
    model = Written()
    _, own = terms_of(model, (ids(),))
    assert own.frozen["up:out"].reason.startswith("with a padded mask the code writes 16")
    _, given = terms_of(model, (ids(), torch.ones(2, 6)))
    assert given.frozen["up:out"].reason.startswith("the code writes 16")


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_language_models_with_shared_keys_take_padded_batches(name: str) -> None:
    from prunus.experiments.sources.vision_ops import import_torchvision

    pytest.importorskip("transformers")
    import_torchvision()
    import transformers

    kind = getattr(transformers, name)
    torch.manual_seed(0)
    config = kind.config_class(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=60,
        max_position_embeddings=32,
    )
    model, tokens = kind(config).eval(), torch.randint(3, 60, (2, 8))
    for share in (0.75, 0.5):
        found = prunus.prune(model, {"input_ids": tokens}, budget={"params": share})
        mask = torch.ones_like(tokens)
        mask[0, :3] = 0
        assert found.model(input_ids=tokens, attention_mask=mask, labels=tokens).loss.isfinite()
        made = found.model.generate(tokens, attention_mask=mask, max_new_tokens=2, num_beams=2, do_sample=False)
        assert made.shape == (2, 10)
        assert prunus.check_calls(found, ["padded mask, integers", "eager attention", "cache, two steps"]).ok
