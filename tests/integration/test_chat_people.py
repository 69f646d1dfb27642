"""Many people at once at one page: all answered in turn, none about another's picture."""

import asyncio
import io
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chat_colours import COLOURS, plain
from chat_page import running_page

from medllava.chat.session import ChatSession
from medllava.model.loaded import LoadedModel
from medllava.model.sampling import Sampling

pytest_plugins = ["chat_colours"]


@pytest.fixture(scope="module")
def address(colour_model: LoadedModel) -> Iterator[str]:
    with running_page(lambda: ChatSession(colour_model, sampling=Sampling())) as page:
        yield page.address


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    plain(colour).save(buffer, "PNG")
    return buffer.getvalue()


def answers_alone(model: LoadedModel, colour: str, questions: list[str]) -> list[str]:
    """What somebody with the model to themselves is answered."""
    session, images = ChatSession(model, sampling=Sampling()), [plain(colour)]
    answers = []
    for question in questions:
        answers.append("".join(session.ask(question, images)).strip())
        images = []
    return answers


async def person(http: httpx.AsyncClient, colour: str, questions: list[str]) -> tuple[list, int]:
    """Upload a picture, ask about it, ask on; return the answers and the worst place in line."""
    path = f"/conversations/{(await http.post('/conversations')).json()['key']}"
    shown = (await http.post(f"{path}/images", content=png(colour))).json()
    answers, worst = [], 0
    images = [{"id": shown["id"]}]
    for question in questions:
        said = ""
        request = {"text": question, "images": images}
        async with http.stream("POST", f"{path}/turns", json=request) as reply:
            async for line in reply.aiter_lines():
                event = httpx.Response(200, text=line).json()
                assert "error" not in event, event
                worst = max(worst, event.get("waiting", 0))
                said += event.get("piece", "")
        answers.append(said)
        images = []
    return answers, worst


async def crowd(address: str, count: int, questions: list[str]) -> list[tuple[str, list, int]]:
    colours = [list(COLOURS)[number % 3] for number in range(count)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=address, headers={"x-medllava": "1"}, timeout=280, limits=limits
    ) as http:
        people = [person(http, colour, questions) for colour in colours]
        found = await asyncio.gather(*people)
    return [(colour, *rest) for colour, rest in zip(colours, found, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [45, 100])
def test_everyone_is_answered_in_turn_about_their_own_picture(
    address: str, colour_model: LoadedModel, count: int
):
    questions = ["Which colour?", "Are you sure?", "Which colour?"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = asyncio.run(crowd(address, count, questions))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if folder := os.environ.get("NUMBERS"):
        right = sum(answers[0] == f"It is {colour}." for colour, answers, _ in found)
        text = f"{count} people: {right} right, grown by {grown / 1024:.0f} MiB\n"
        with (Path(folder) / "people").open("a") as numbers:
            numbers.write(text)
    alone = {colour: answers_alone(colour_model, colour, questions) for colour in COLOURS}
    for colour, answers, _ in found:
        assert answers[:2] == [f"It is {colour}.", f"Yes, {colour}."]
        assert [said.strip() for said in answers] == alone[colour]
    assert max(worst for _, _, worst in found) > count // 2, "nobody saw a place in the line"
    assert grown < 300 * 1024, "memory grows with the crowd"


def test_a_crowd_that_leaves_does_not_block_the_page(address: str):
    """Forty people ask for a song and close the page; the next one is answered."""

    async def leave(http: httpx.AsyncClient) -> None:
        path = f"/conversations/{(await http.post('/conversations')).json()['key']}"
        async with http.stream("POST", f"{path}/turns", json={"text": "Sing."}) as reply:
            async for _ in reply.aiter_lines():
                return

    async def all_leave() -> None:
        async with httpx.AsyncClient(
            base_url=address, headers={"x-medllava": "1"}, timeout=60
        ) as http:
            await asyncio.gather(*(leave(http) for _ in range(40)))

    asyncio.run(all_leave())
    ((_, answers, _),) = asyncio.run(crowd(address, 1, ["Which colour?"]))
    assert answers == ["It is red."]
    assert threading.active_count() < 60
