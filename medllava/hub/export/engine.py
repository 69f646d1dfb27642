"""llama.cpp's server as an engine to compare with: its token ids, and its answers."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import httpx
from PIL import Image

from medllava.errors import RemoteError
from medllava.images.encode import encode_image, image_address
from medllava.records import IMAGE_TOKEN, Turn

_SECONDS = 600
_NUM_LIKELY = 16
"""Tokens whose probability is asked for at every step."""
_USUAL_MARKER = "<__media__>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server answered."""

    ids: list[int]
    likely: list[dict[int, float]]
    """Per token: log probability by token id, of the likeliest; empty: not told."""
    num_asked: int
    """Tokens of the prompt as the server counted them, pictures included."""


class LlamaCpp:
    """A running server with one model."""

    def __init__(self, address: str, *, image_token_id: int) -> None:
        """Ask which marker stands for a picture in this server's prompts.

        Args:
            address: without `/v1`.
            image_token_id: stands for one feature of a picture in the ids that are returned.

        Raises:
            RemoteError: as of all its methods, the server gave no answer.
        """
        self._client = httpx.Client(base_url=address, timeout=_SECONDS)
        self._image_token_id = image_token_id
        self._marker = self._ask("GET", "/props", None).get("media_marker") or _USUAL_MARKER

    def prompt(self, turns: Sequence[Turn]) -> str:
        """Return a conversation as the template in the file writes it, a marker per picture."""
        blank = image_address(Image.new("RGB", (1, 1)))
        messages = [_message(turn, blank) for turn in turns]
        text = str(self._ask("POST", "/apply-template", {"messages": messages})["prompt"])
        return text.replace(IMAGE_TOKEN, self._marker)

    def prompt_ids(self, turns: Sequence[Turn], *, like: Sequence[int]) -> list[int]:
        """Return the token ids of a conversation.

        A text is cut at its pictures and the pieces are tokenized alone, as the server does it.

        Args:
            turns: of the conversation; one `<image>` for each picture.
            like: ids of another engine, for how many features each picture has.
        """
        runs = [list(run) for key, run in groupby(like, self._is_image) if key]
        ids: list[int] = []
        for number, piece in enumerate(self.prompt(turns).split(self._marker)):
            if number:
                ids += runs[number - 1] if number <= len(runs) else [self._image_token_id]
            if piece:
                body = {"content": piece, "add_special": False, "parse_special": True}
                ids += self._ask("POST", "/tokenize", body)["tokens"]
        return ids

    def answer(
        self,
        turns: Sequence[Turn],
        pictures: Sequence[Image.Image],
        *,
        max_tokens: int,
        likely: bool = False,
        stop: bool = True,
    ) -> Reply:
        """Go on with a conversation, the likeliest token always.

        Args:
            turns: of the conversation; one `<image>` for each picture.
            pictures: in the order in which they are shown.
            max_tokens: of the answer.
            likely: tell how likely tokens were; it takes a large vocabulary's time.
            stop: end where the model does; else after `max_tokens` whatever it says.
        """
        text = self.prompt(turns)
        data = [base64.b64encode(encode_image(picture)).decode() for picture in pictures]
        reply = self._ask(
            "POST",
            "/completion",
            {
                "prompt": {"prompt_string": text, "multimodal_data": data} if data else text,
                "n_predict": max_tokens,
                "temperature": 0,
                "n_probs": _NUM_LIKELY if likely else 0,
                "ignore_eos": not stop,
                "return_tokens": True,
                "cache_prompt": False,
            },
        )
        return Reply(
            ids=reply["tokens"],
            likely=_by_token(reply["tokens"], reply.get("completion_probabilities", [])),
            num_asked=reply["tokens_evaluated"],
        )

    def _is_image(self, token: int) -> bool:
        return token == self._image_token_id

    def _ask(self, method: str, path: str, body: object) -> dict[str, Any]:
        try:
            reply = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise RemoteError(f"llama.cpp's server gave no answer ({error!r}): {path}.") from None
        if reply.status_code != httpx.codes.OK:
            raise RemoteError(f"llama.cpp's server: HTTP {reply.status_code}: {reply.text[:300]}")
        values: dict[str, Any] = reply.json()
        return values


def _by_token(ids: Sequence[int], told: Sequence[dict[str, Any]]) -> list[dict[int, float]]:
    """Give each token its probabilities; the server tells none where a letter is not whole yet."""
    likely, steps = list[dict[int, float]](), list(told)
    for token in ids:
        if steps and steps[0]["id"] == token:
            found = steps.pop(0)["top_logprobs"]
            likely.append({entry["id"]: entry["logprob"] for entry in found})
        else:
            likely.append({})
    return likely


def _message(turn: Turn, address: str) -> dict[str, Any]:
    """Return a turn as any client sends it: pictures, then words."""
    words = turn.content.replace(IMAGE_TOKEN, "").strip()
    count = turn.content.count(IMAGE_TOKEN)
    if not count:
        return {"role": turn.role, "content": words}
    pictures = [{"type": "image_url", "image_url": {"url": address}} for _ in range(count)]
    return {"role": turn.role, "content": [*pictures, {"type": "text", "text": words}]}
