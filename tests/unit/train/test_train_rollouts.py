"""Answers that share their prompt are given, and scored, as if each stood alone."""

import pytest
import torch

from medllava.model.attention import choose_attention
from medllava.model.decode import Decoder
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.model.processor import num_image_tokens
from medllava.recipe import Attention, load_recipe
from medllava.train.rollouts import give_answers, pack_answers, score_pack, shares_prompts


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    recipe = load_recipe("debug")
    attention = choose_attention(Attention.AUTO, device="cpu")
    built = build_model(
        recipe.model, seed=0, dtype=torch.float32, attention=attention, calibration=()
    )
    built.model.eval()
    return built


@pytest.fixture(scope="module")
def prompts(loaded: LoadedModel) -> list[list[int]]:
    """Two, of different lengths, each with an image of its own."""
    image = [loaded.processor.image_token_id] * num_image_tokens(loaded.processor)
    return [[5, *image, 6, 7], [5, *image, 8, 9, 10, 11, 12]]


@pytest.fixture(scope="module")
def pixels(loaded: LoadedModel) -> torch.Tensor:
    size = loaded.model.config.vision_config.image_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_answers_given_together_are_those_given_alone(
    loaded: LoadedModel, prompts: list[list[int]], pixels: torch.Tensor
) -> None:
    decoder, how = Decoder(loaded), {"temperature": 1.0, "max_new_tokens": 6}
    together = give_answers(decoder, prompts, pixels, seeds=[1, 2, 3, 4, 5, 6], **how)  # type: ignore[arg-type]
    alone = [
        give_answers(decoder, prompts[n : n + 1], pixels[n : n + 1], seeds=[3 * n + k], **how)[0]  # type: ignore[arg-type]
        for n in range(2)
        for k in (1, 2, 3)
    ]
    assert together == alone
    assert len({tuple(answer) for answer in together}) > 2


def test_the_token_that_ends_an_answer_is_part_of_it(
    loaded: LoadedModel, prompts: list[list[int]], pixels: torch.Tensor
) -> None:
    decoder = Decoder(loaded)
    how = {"temperature": 1.0, "max_new_tokens": 6}
    (answer,) = give_answers(decoder, prompts[:1], pixels[:1], seeds=[2], **how)  # type: ignore[arg-type]
    assert len(answer) == 6
    decoder.end_ids = {answer[2]}
    (ended,) = give_answers(decoder, prompts[:1], pixels[:1], seeds=[2], **how)  # type: ignore[arg-type]
    assert ended == answer[: answer.index(answer[2]) + 1]


def test_an_image_is_never_said(
    loaded: LoadedModel, prompts: list[list[int]], pixels: torch.Tensor
) -> None:
    """However likely a model finds its token, which has no meaning in an answer."""
    image, head = loaded.processor.image_token_id, loaded.model.lm_head
    before = head.weight.detach().clone()
    how = {"temperature": 1.0, "max_new_tokens": 2}
    try:
        with torch.no_grad():
            (likeliest,) = give_answers(Decoder(loaded), prompts[:1], pixels[:1], seeds=[2], **how)  # type: ignore[arg-type]
            head.weight[image] = 50 * head.weight[likeliest[0]]
        (answer,) = give_answers(Decoder(loaded), prompts[:1], pixels[:1], seeds=[2], **how)  # type: ignore[arg-type]
    finally:
        head.weight.data.copy_(before)
    assert image not in answer


@torch.no_grad()
def test_answers_in_a_pack_are_worth_what_they_are_alone(
    loaded: LoadedModel, prompts: list[list[int]], pixels: torch.Tensor
) -> None:
    groups, answers = [1, 0, 1, 0, 1], [[20, 21, 22], [23], [24], [25, 26], []]
    width = max(len(answer) for answer in answers)
    start = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(answers), start + width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (group, answer) in enumerate(zip(groups, answers, strict=True)):
        line = [*prompts[group], *answer]
        begin = start - len(prompts[group])
        ids[row, begin : begin + len(line)] = torch.tensor(line)
        mask[row, begin : begin + len(line)] = 1
    assert shares_prompts(loaded.model, longest=start + width)
    pack = pack_answers(ids, mask, width=width, groups=groups)
    # Both prompts once; of an answer all but its last token, which predicts nothing.
    assert pack.lengths == (len(prompts[1]) + 2, len(prompts[0]) + 1)
    assert pack.inputs["input_ids"].shape == (1, sum(pack.lengths))
    shown = pixels[[groups[first] for first in pack.firsts]]
    shape = torch.Size((len(answers), width))
    found, entropies = score_pack(loaded.model, pack, shown, shape=shape, temperature=0.7)
    for row, (group, answer) in enumerate(zip(groups, answers, strict=True)):
        line = torch.tensor([[*prompts[group], *answer]])
        logits = loaded.model(input_ids=line, pixel_values=pixels[group : group + 1]).logits[0]
        logits[:, loaded.processor.image_token_id] = -torch.inf  # never said
        scores = torch.log_softmax(logits / 0.7, dim=-1)[
            len(prompts[group]) - 1 : line.shape[1] - 1
        ]
        expected = scores.gather(1, line[0, len(prompts[group]) :, None])[:, 0]
        torch.testing.assert_close(found[row, : len(answer)], expected, rtol=1e-5, atol=1e-5)
        by_hand = torch.special.entr(scores.exp()).sum(-1)
        torch.testing.assert_close(entropies[row, : len(answer)], by_hand, rtol=1e-5, atol=1e-5)
        assert not found[row, len(answer) :].any()
