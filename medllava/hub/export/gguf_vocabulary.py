"""A tokenizer as llama.cpp's vocabulary: tokens, kinds, merges, and how text is cut before merging.

llama.cpp knows ways to cut a text by name. The name is found by looking at the tokenizer's own
rules, never by the model's name, and the export compares token ids before anything is kept.
"""

import json
import re
from typing import Any

import gguf

from medllava.errors import SetupError
from medllava.hub.export.gguf_template import llama_cpp_template

_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def write_vocabulary(writer: Any, processor: Any, *, size: int) -> None:  # noqa: ANN401 - untyped libraries
    """Write the tokenizer of a processor.

    Args:
        writer: gguf's.
        processor: with a fast tokenizer and the chat template.
        size: rows of the word embeddings; rows without a token get a name and are never said.

    Raises:
        SetupError: llama.cpp has no such tokenizer.
    """
    tokenizer = processor.tokenizer
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    model = values["model"]
    if model["type"] != "BPE":
        raise SetupError(f"no GGUF for a {model['type']!r} tokenizer; byte-pair encodings work.")
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = [by_id.get(i, f"[unused{i}]") for i in range(size)]
    special = {t["id"]: bool(t["special"]) for t in values["added_tokens"]}
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(i) for i in range(size)])
        writer.add_add_space_prefix(_has_space_prefix(values))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_cut_name(values.get("pre_tokenizer")))
        merges = model["merges"]
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_token_list(tokens)
    writer.add_token_types([_kind(i, by_id, special) for i in range(size)])
    writer.add_vocab_size(size)
    for name in ("bos", "eos", "pad"):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    # The template writes the token that opens a text, where there is one.
    writer.add_add_bos_token(False)  # noqa: FBT003 - gguf's own signature
    writer.add_chat_template(llama_cpp_template(str(processor.chat_template)))


def _kind(index: int, by_id: dict[int, str], special: dict[int, bool]) -> gguf.TokenType:
    if index not in by_id:
        return gguf.TokenType.UNUSED
    if index in special:
        return gguf.TokenType.CONTROL if special[index] else gguf.TokenType.USER_DEFINED
    return gguf.TokenType.BYTE if _BYTE.fullmatch(by_id[index]) else gguf.TokenType.NORMAL


def _has_space_prefix(values: dict[str, Any]) -> bool:
    rules = json.dumps([values.get("normalizer"), values.get("pre_tokenizer")])
    return '"Prepend"' in rules or '"prepend_scheme": "always"' in rules


def _cut_name(rule: dict[str, Any] | None) -> str:
    """Return llama.cpp's name for the way a text is cut before merging."""
    steps = rule["pretokenizers"] if rule and rule["type"] == "Sequence" else [rule or {}]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    pattern = str(steps[0].get("pattern", {}).get("Regex", "")) if kinds[0] == "Split" else ""
    for name, start in (("qwen2", _QWEN2), ("llama-bpe", _LLAMA3)):
        if pattern.startswith(start):
            return name
    raise SetupError(
        f"no GGUF for this tokenizer: llama.cpp has no name for its rule {json.dumps(rule):.200}. "
        "Serve the folder with transformers, vLLM or SGLang."
    )
