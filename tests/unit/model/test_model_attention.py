"""Packed attention equals separate sequences, forward and backward."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from medllava.errors import SetupError
from medllava.model.attention import choose_attention
from medllava.model.packed_attention import SEGMENTED, VARLEN, segment_bounds
from medllava.recipe import Attention

LENGTHS = (5, 1, 9, 3)
# Worst case measured on logits: 2e-7. A token that sees a neighbour moves them by 1e-2.
TOLERANCE = 1e-6


def tiny_model(attention: str, *, window: int | None = None) -> torch.nn.Module:
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    torch.manual_seed(0)
    config = MistralConfig(**shape, sliding_window=window) if window else LlamaConfig(**shape)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def pack() -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(1)
    sequences = [torch.randint(0, 64, (length,)) for length in LENGTHS]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    return sequences, torch.cat(sequences)[None], positions[None]


def gradients(model: torch.nn.Module, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("requested", [Attention.SEGMENTED, Attention.SDPA])
@pytest.mark.parametrize("window", [None, 4])
def test_packed_logits_and_gradients_equal_separate_ones(
    requested: Attention, window: int | None
) -> None:
    model = tiny_model(choose_attention(requested, device="cpu"), window=window)
    sequences, input_ids, position_ids = pack()
    packed = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits[0]
    separate = torch.cat([model(input_ids=s[None], use_cache=False).logits[0] for s in sequences])
    assert torch.allclose(packed, separate, atol=TOLERANCE, rtol=0)
    weights = torch.randn_like(packed)
    for got, want in zip(
        gradients(model, (packed * weights).sum()),
        gradients(model, (separate * weights).sum()),
        strict=True,
    ):
        assert torch.allclose(got, want, atol=1e-5, rtol=1e-5)


def test_segmented_attention_builds_no_mask_for_a_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    import medllava.model.packed_attention as attention

    def refuse(**_: object) -> None:
        raise AssertionError("a mask was built")

    model = tiny_model(choose_attention(Attention.SEGMENTED, device="cpu"))
    monkeypatch.setattr(attention, "sdpa_mask", refuse)
    _, input_ids, position_ids = pack()
    model(input_ids=input_ids, position_ids=position_ids, use_cache=False)


def test_several_packs_in_one_batch_stay_apart() -> None:
    model = tiny_model(choose_attention(Attention.SEGMENTED, device="cpu"))
    _, input_ids, position_ids = pack()
    other = torch.arange(input_ids.shape[1])[None]
    both = model(
        input_ids=input_ids.repeat(2, 1), position_ids=torch.cat([position_ids, other])
    ).logits
    first = model(input_ids=input_ids, position_ids=position_ids).logits
    second = model(input_ids=input_ids, position_ids=other).logits
    assert torch.allclose(both, torch.cat([first, second]), atol=TOLERANCE, rtol=0)


def test_left_padded_batch_generates_what_single_prompts_do() -> None:
    model = tiny_model(choose_attention(Attention.SEGMENTED, device="cpu")).eval()
    short, long = torch.arange(1, 5)[None], torch.arange(5, 13)[None]
    padded = torch.nn.functional.pad(short, (4, 0))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, :4] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": -1}
    batch = model.generate(input_ids=torch.cat([padded, long]), attention_mask=mask, **options)[
        :, 8:
    ]
    assert torch.equal(batch[0], model.generate(input_ids=short, **options)[0, 4:])
    assert torch.equal(batch[1], model.generate(input_ids=long, **options)[0, 8:])


def test_varlen_takes_the_segmented_path_where_its_kernel_cannot_run() -> None:
    choose_attention(Attention.AUTO, device="cpu")
    _, input_ids, position_ids = pack()
    logits = [
        tiny_model(name)(input_ids=input_ids, position_ids=position_ids).logits
        for name in (SEGMENTED, VARLEN)
    ]
    assert torch.equal(*logits)


def reference_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """The varlen kernel's contract, (T, heads, width) and cumulative lengths, in plain torch."""
    assert window_size[1] == 0
    assert enable_gqa == (query.shape[1] != key.shape[1])
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    assert cu_seq_q.dtype is torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    bounds = cu_seq_q.tolist()
    assert max_q == max_k == max(b - a for a, b in itertools.pairwise(bounds))
    assert bounds[-1] == len(query)
    out = torch.empty_like(query)
    for start, end in itertools.pairwise(bounds):
        q, k, v = (t[start:end].transpose(0, 1).float() for t in (query, key, value))
        scores = (q @ k.transpose(1, 2)) * scale
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        if window_size[0] >= 0:
            hidden |= torch.ones_like(hidden).tril(-window_size[0] - 1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[start:end] = (weights @ v).transpose(0, 1).to(out.dtype)
    return out


def test_varlen_kernel_is_called_as_its_contract_says(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_attention(Attention.AUTO, device="cpu")
    _, input_ids, position_ids = pack()
    batch = {
        "input_ids": input_ids.repeat(2, 1),
        "position_ids": torch.cat([position_ids, torch.arange(input_ids.shape[1])[None]]),
    }
    expected = tiny_model(SEGMENTED).bfloat16()(**batch).logits
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)
    model = tiny_model(VARLEN).bfloat16()
    # bf16 keeps 8 bits: worst case measured 8e-3. A neighbour that is seen moves logits by 5e-2.
    assert torch.allclose(model(**batch).logits, expected, atol=1.6e-2)
    model(**batch).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_segments_restart_where_the_position_is_not_one_higher() -> None:
    assert segment_bounds(torch.tensor([[0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5]])) == [
        [0, 3, 4, 6],
        [0, 6],
    ]


def test_auto_on_cpu_is_segmented_and_flash_there_is_refused() -> None:
    assert choose_attention(Attention.AUTO, device="cpu") == SEGMENTED
    assert choose_attention(Attention.EAGER, device="cpu") == "eager"
    with pytest.raises(SetupError, match="flash-attn"):
        choose_attention(Attention.FLASH, device="cpu")
    with pytest.raises(SetupError, match="varlen"):
        choose_attention(Attention.VARLEN, device="cpu")


def kept(sequences: list[Tensor]) -> dict[str, object]:
    """The segments as the collator tells them."""
    ends = torch.tensor([0, *itertools.accumulate(len(s) for s in sequences)], dtype=torch.int32)
    longest = max(len(s) for s in sequences)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }


# No window; one that is shorter than the pack and longer than every record; one that cuts records.
@pytest.mark.parametrize("window", [None, 12, 4])
@pytest.mark.parametrize("kernel", [SEGMENTED, VARLEN, "sdpa", "eager"])
def test_packed_is_separate_through_every_kernel_with_cumulative_lengths(
    kernel: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_attention(Attention.AUTO, device="cpu")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)
    monkeypatch.setattr("medllava.model.packed_attention._HALF", (torch.float32,))
    model = tiny_model(kernel, window=window)
    sequences, input_ids, position_ids = pack()
    given = {**kept(sequences), "position_ids": position_ids, "use_cache": False}
    packed = model(input_ids=input_ids, **given).logits[0]
    plain = tiny_model("eager", window=window)
    separate = torch.cat([plain(input_ids=s[None], use_cache=False).logits[0] for s in sequences])
    assert torch.allclose(packed, separate, atol=TOLERANCE, rtol=0)


def test_the_varlen_kernel_runs_packs_and_gets_grouped_heads_and_the_window_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int, tuple[int, int]]] = []

    def watched(
        query: Tensor,
        key: Tensor,
        *rest: object,
        scale: float,
        window_size: tuple[int, int],
        enable_gqa: bool = False,
    ) -> Tensor:
        calls.append((query.shape[1], key.shape[1], window_size))
        options = {"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa}
        return reference_varlen(query, key, *rest, **options)

    choose_attention(Attention.AUTO, device="cpu")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", watched)
    monkeypatch.setattr("medllava.model.packed_attention._HALF", (torch.float32,))
    sequences, input_ids, position_ids = pack()
    for window, expected in ((12, (-1, 0)), (4, (3, 0))):
        calls.clear()
        tiny_model(VARLEN, window=window)(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, **kept(sequences)
        )
        assert calls == [(4, 2, expected)] * 2  # four query heads, two key heads, two layers


def test_a_window_shorter_than_the_pack_builds_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    import medllava.model.packed_attention as attention

    def refuse(**_: object) -> None:
        raise AssertionError("a mask was built")

    model = tiny_model(choose_attention(Attention.SEGMENTED, device="cpu"), window=12)
    monkeypatch.setattr(attention, "sdpa_mask", refuse)
    sequences, input_ids, position_ids = pack()
    assert input_ids.shape[1] > 12 > max(LENGTHS)
    model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **kept(sequences))


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> set[Attention]:
    """A CUDA machine on which transformers accepts the flash-attn versions in the set."""
    accepted: set[Attention] = set()
    for name, version in ((Attention.FLASH_2, 2), (Attention.FLASH_3, 3), (Attention.FLASH_4, 4)):
        monkeypatch.setattr(
            f"transformers.utils.import_utils.is_flash_attn_{version}_available",
            lambda name=name: name in accepted,
        )
    return accepted


def test_flash_is_what_transformers_accepts(fake_gpu: set[Attention]) -> None:
    assert choose_attention(Attention.AUTO, device="cuda") == VARLEN
    fake_gpu.add(Attention.FLASH_4)
    assert choose_attention(Attention.AUTO, device="cuda") == "flash_attention_4"
    assert choose_attention(Attention.FLASH, device="cuda") == "flash_attention_4"
    with pytest.raises(SetupError, match="flash_attention_2"):
        choose_attention(Attention.FLASH_2, device="cuda")
    fake_gpu.add(Attention.FLASH_2)
    assert choose_attention(Attention.FLASH_2, device="cuda") == "flash_attention_2"


def test_a_stub_package_named_flash_attn_is_not_chosen(tmp_path: Path) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("")
    script = (
        "from medllava.model.attention import choose_attention\n"
        "from medllava.recipe import Attention\n"
        "print(choose_attention(Attention.AUTO, device='cuda'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == VARLEN
