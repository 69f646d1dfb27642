"""Answers from a file: a ledger of an earlier run, or lines of `ChatReply`. Costs nothing."""

from collections.abc import Iterator
from pathlib import Path

from medllava.llm.protocol import Attempts, ChatReply, ChatRequest, RequestRefusedError
from medllava.store import iter_jsonl


class RecordedModel:
    """A `ChatModel` that repeats what it said before, by request id."""

    def __init__(self, path: Path) -> None:
        """Read the recording.

        Args:
            path: JSONL; each line is a `ChatReply` or a ledger's line that holds one. Of several
                replies to one request the last counts.

        Raises:
            DataError: the file is absent or a line breaks the schema.
        """
        self.name = f"recorded:{path.name}"
        self._replies: dict[str, ChatReply] = {}
        for number, line in iter_jsonl(path, allow_torn_tail=True):
            values = line.get("reply", line)
            if isinstance(values, dict) and "text" in values:
                reply = ChatReply.from_json(values, where=f"{path}, line {number}")
                self._replies[reply.request_id] = reply

    def reply(self, request: ChatRequest, *, attempts: Attempts | None = None) -> ChatReply:  # noqa: ARG002 - costs nothing
        """Return the recorded reply.

        Raises:
            RequestRefusedError: there is none.
        """
        reply = self._replies.get(request.request_id)
        if reply is None:
            raise RequestRefusedError(
                f"no recorded reply: {request.request_id} in {self.name}.", is_final=True
            )
        return reply

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """Yield the recorded reply in one piece."""
        yield self.reply(request).text
