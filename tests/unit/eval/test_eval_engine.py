"""Batched, prefix-sharing decoding says what one-at-a-time generation says."""

import threading

import pytest
import torch

from medllava.data.conversation import render_prompt
from medllava.errors import DataError
from medllava.eval.ask import rows
from medllava.eval.ask.engine import Engine
from medllava.eval.ask.predict import BLANK, Ask
from medllava.eval.ask.rows import Prefixes
from medllava.eval.config import DecodingConfig
from medllava.images.load import load_image
from medllava.model.decode import Decoder
from medllava.records import Turn

TEXTS = ("Where?", "Is there a lesion in this image, or is it normal?", "What organ is this?")


def make_asks(images, *, with_text_only=True):
    asks = [
        Ask(id=f"{i}-{j}", condition="real", seed=0, image=str(image), text=text)
        for i, image in enumerate(images)
        for j, text in enumerate(TEXTS)
    ]
    if with_text_only:
        asks += [
            Ask(id=f"t{j}", condition="text", seed=0, image=None, text=t)
            for j, t in enumerate(TEXTS)
        ]
        asks.append(Ask(id="b", condition="blank", seed=0, image=BLANK, text=TEXTS[0]))
    return asks


def answers(model, asks, **decoding):
    engine = Engine(model, DecodingConfig(max_new_tokens=10, **decoding))
    batches = list(engine.answer(asks, is_done=lambda ask: False))
    return {ask.id: text for batch in batches for ask, text in batch}


def generate_alone(model, ask):
    content = "<image>\n" * len(ask.images) + ask.text
    prompt = render_prompt(model.processor, [Turn(role="user", content=content)], open_reply=True)
    images = [load_image(image) for image in ask.images] or None
    inputs = model.processor(images=images, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        out = model.model.generate(**inputs, max_new_tokens=10, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    ends = model.model.generation_config.eos_token_id
    if new and new[-1] in (ends if isinstance(ends, list) else [ends]):
        new.pop()
    return model.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("ends", [None, list(range(7, 500, 9))])
def test_replies_equal_generation_one_at_a_time(tiny_model, images, monkeypatch, ends):
    if ends is not None:  # random weights never stop by themselves; now rows stop at their own time
        monkeypatch.setattr(tiny_model.model.generation_config, "eos_token_id", ends)
    asks = make_asks(images)
    found = answers(tiny_model, asks, batch_size=5)
    for ask in asks:
        if ask.image != BLANK:
            assert found[ask.id] == generate_alone(tiny_model, ask)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_no_reply(tiny_model, images, batch_size):
    asks = make_asks(images)
    assert answers(tiny_model, asks, batch_size=batch_size) == answers(tiny_model, asks)


def test_sampled_replies_do_not_depend_on_the_batch(tiny_model, images):
    asks = make_asks(images)
    alone = answers(tiny_model, asks, batch_size=1, temperature=1.0)
    assert alone == answers(tiny_model, asks, batch_size=7, temperature=1.0)
    assert alone != answers(tiny_model, asks, batch_size=7)


def test_an_image_is_encoded_once(tiny_model, images, monkeypatch):
    encoded = []
    forward = tiny_model.model.model.get_image_features

    def count(pixel_values, **kwargs):
        encoded.append(len(pixel_values))
        return forward(pixel_values=pixel_values, **kwargs)

    monkeypatch.setattr(tiny_model.model.model, "get_image_features", count)
    answers(tiny_model, make_asks(images), batch_size=2)
    assert sum(encoded) == len(images) + 1  # and the blank one


def test_done_batches_are_left_out_and_others_keep_their_shape(tiny_model, images):
    asks = make_asks(images, with_text_only=False)
    engine = Engine(tiny_model, DecodingConfig(max_new_tokens=4, batch_size=4))
    whole = list(engine.answer(asks, is_done=lambda ask: False))
    done = {ask.key for ask, _ in whole[0]} | {whole[1][0][0].key}
    rest = list(engine.answer(asks, is_done=lambda ask: ask.key in done))
    assert rest == whole[1:]


def test_a_question_longer_than_the_model_reads_is_named(tiny_model, images):
    ask = Ask(id="long", condition="real", seed=0, image=str(images[0]), text="why " * 2000)
    with pytest.raises(DataError, match="'long'"):
        answers(tiny_model, [ask])


def test_questions_about_several_images_get_what_generation_alone_gives(tiny_model, images):
    shown = [images[:2], images[:2], images[1::-1], images[:3], images[:1]]
    asks = [
        Ask(
            id=str(number),
            condition="real",
            seed=0,
            image=str(paths[0]),
            more=tuple(map(str, paths[1:])),
            text=f"What changed in {number}?",
        )
        for number, paths in enumerate(shown)
    ]
    found = answers(tiny_model, asks, batch_size=3)
    assert found == {ask.id: generate_alone(tiny_model, ask) for ask in asks}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("ends", [None, list(range(7, 500, 9))])
def test_memory_laid_out_once_changes_no_reply(tiny_model, images, monkeypatch, ends, batch_size):
    if ends is not None:
        monkeypatch.setattr(tiny_model.model.generation_config, "eos_token_id", ends)
    asks = make_asks(images)
    # Random weights choose one token over and over; drawn ones end the rows at different times.
    temperature = 0.0 if ends is None else 1.0
    decoding = DecodingConfig(max_new_tokens=10, batch_size=batch_size, temperature=temperature)
    found = []
    for is_fixed in (False, True):
        engine = Engine(tiny_model, decoding)
        engine._is_fixed = is_fixed
        found.append(list(engine.answer(asks, is_done=lambda ask: False)))
    assert found[0] == found[1]
    assert len({text for batch in found[0] for _, text in batch}) > 5


def test_a_fixed_cache_is_laid_out_once_for_batches_of_one_shape(tiny_model, images, monkeypatch):
    lengths = []
    lay_out = Decoder.fixed_cache
    monkeypatch.setattr(
        Decoder, "fixed_cache", lambda self, n: lengths.append(n) or lay_out(self, n)
    )
    engine = Engine(tiny_model, DecodingConfig(max_new_tokens=4, batch_size=4))
    engine._is_fixed = True
    batches = list(
        engine.answer(make_asks(images, with_text_only=False), is_done=lambda ask: False)
    )
    assert len(batches) > 1
    assert len(lengths) == 1


def test_prefixes_go_with_the_last_batch_that_needs_them(tiny_model, images, monkeypatch):
    held = []
    take = Prefixes.take
    monkeypatch.setattr(
        Prefixes, "take", lambda self, batch: (take(self, batch), held.append(len(self._rows)))[0]
    )
    asks = make_asks(images, with_text_only=False)
    answers(tiny_model, asks[:: len(TEXTS)], batch_size=1)  # one question about each image
    assert held == [0] * len(images)
    held.clear()
    answers(tiny_model, asks, batch_size=2)  # sorted by length: an image's questions lie apart
    assert max(held) == len(images)
    assert held[-1] == 0


def test_images_of_the_next_batch_are_read_while_this_one_is_answered(
    tiny_model, images, monkeypatch
):
    opened = threading.Semaphore(0)
    monkeypatch.setattr(rows, "load_image", lambda path: (load_image(path), opened.release())[0])
    asks = make_asks(images, with_text_only=False)[:: len(TEXTS)]
    engine = Engine(tiny_model, DecodingConfig(max_new_tokens=4, batch_size=1))
    replies = engine.answer(asks, is_done=lambda ask: False)
    next(replies)
    assert opened.acquire(timeout=5)
    assert opened.acquire(timeout=5)
    replies.close()


def test_a_gpu_answers_as_many_at_once_as_its_free_memory_holds(tiny_model, images, monkeypatch):
    asks = make_asks(images)
    engine = Engine(tiny_model, DecodingConfig(max_new_tokens=10))
    prompts = [engine._prompt(ask) for ask in asks]
    engine._on_gpu = True
    sizes = []
    for free in (10**12, 10**6, 10**5, 1):
        monkeypatch.setattr("medllava.eval.ask.engine.free_bytes", lambda _, free=free: free)
        sizes.append(engine._fitting(prompts))
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (256, 1)
    assert 1 < sizes[1] < 256
    engine._on_gpu = False
    assert engine._fitting(prompts) == 16
    monkeypatch.setattr("medllava.eval.ask.engine.free_bytes", lambda _: 10**12)
    assert engine._fitting(prompts) == 48
    engine._on_gpu = True
    windows = list(engine._windows(prompts, 4))
    assert max(len(window) for window in windows) <= 4
    together = [prompt for window in windows for prompt in window]
    assert together == sorted(prompts, key=lambda prompt: len(prompt.prefix))
