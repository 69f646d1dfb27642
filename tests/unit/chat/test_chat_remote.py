"""A conversation whose answers come from a server."""

from llm_server import LoopbackModel

from medllava.chat.remote import RemoteConversation
from medllava.llm.client import OpenAIModel
from medllava.model.sampling import Sampling


def test_an_answer_begins_with_its_first_word_as_it_does_from_a_checkpoint():
    with LoopbackModel(lambda _: "  It is  red.").running() as server:
        conversation = RemoteConversation(
            OpenAIModel("m", base_url=server.url), Sampling(max_new_tokens=8)
        )
        assert "".join(conversation.ask("What?")) == "It is  red."
    assert conversation.turns[-1].content == "It is  red."
