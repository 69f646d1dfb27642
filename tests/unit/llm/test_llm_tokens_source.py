"""Who counted the tokens is told: the model's own tokenizer, or the script."""

import logging

import pytest
from llm_server import ask
from tokenizers import Tokenizer, models, pre_tokenizers

from medllava.llm.tokens import BY_SCRIPT, estimate_tokens, text_counted_by


def test_a_tokenizer_at_hand_counts_and_is_named(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert text_counted_by(str(tmp_path)) == f"tokenizer: {tmp_path / 'tokenizer.json'}"
    one, two = (estimate_tokens(ask(text), str(tmp_path)) for text in ("word", "word " * 11))
    assert two - one == 10


def test_a_broken_tokenizer_is_told_and_the_script_counts(tmp_path, caplog):
    (tmp_path / "tokenizer.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        said = text_counted_by(str(tmp_path))
    assert said.startswith(f"{BY_SCRIPT}: ")
    assert str(tmp_path) in caplog.text
    assert "by script" in caplog.text


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "", "nobody/nothing"])
def test_without_a_tokenizer_the_script_counts_and_says_so(model):
    assert text_counted_by(model).startswith(BY_SCRIPT)
