from pathlib import Path

import pytest
from PIL import Image

from medllava.errors import SetupError
from medllava.llm.local import LocalModel
from medllava.llm.protocol import ChatRequest, Message, RequestRefusedError
from medllava.model.load import save_model
from medllava.model.parts import build_model
from medllava.recipe import load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save_model(build_model(load_recipe("debug").model, seed=3), path)
    return path


def ask(text: str, *images: str) -> ChatRequest:
    message = Message(role="user", content=text, images=images)
    return ChatRequest(request_id="1", messages=(message,), max_new_tokens=4, seed=1)


def test_a_model_in_this_process_answers_and_counts(folder: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    model = LocalModel(str(folder), device="cpu")
    blind = model.reply(ask("What is it?"))
    seen = model.reply(ask("What is it?", str(tmp_path / "a.png")))
    assert 1 <= blind.output_tokens <= 4
    assert seen.input_tokens > blind.input_tokens
    assert model.reply(ask("What is it?")) == blind
    with pytest.raises(RequestRefusedError, match=r"b\.png"):
        model.reply(ask("What is it?", str(tmp_path / "b.png")))


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=str(tmp_path)):
        LocalModel(str(tmp_path))
