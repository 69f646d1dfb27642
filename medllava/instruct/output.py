"""The instructions folder: records, questions and rejections, written whole or not at all.

Records go in one by one; the files appear under their names when all are written, so a run that is
killed leaves the last complete output and a run that is repeated replaces it by the same bytes.
"""

import json
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from medllava.data.strikes import read_strikes
from medllava.instruct.browse import BrowseRecords
from medllava.instruct.caption_statistics import CaptionStatistics
from medllava.layout import INSTRUCTIONS_FILE, QUESTIONS_FILE, REJECTED_FILE, SUMMARY_FILE
from medllava.records import InstructionRecord, PreferenceRecord, Question, Stage, Turn
from medllava.store import atomic_path, write_json

STRUCK = "struck"
"""Somebody looked at the record and struck it."""

# `json.dumps` with options makes an encoder for every line.
_encode = json.JSONEncoder(ensure_ascii=False).encode


class InstructionsWriter:
    """Writes the line files of an instructions folder and counts what it writes."""

    def __init__(
        self,
        folder: Path,
        *,
        with_questions: bool = False,
        seed: int = 0,
        records_file: str = INSTRUCTIONS_FILE,
    ) -> None:
        """Prepare to write into `folder`, made if absent; `seed` draws the report's samples."""
        self.folder = folder
        self.statistics = CaptionStatistics(seed=seed)
        self.browse = BrowseRecords(seed=seed)
        self.struck = read_strikes(folder)
        """Ids that somebody struck; their records are not written."""
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        """Rejected figures by reason."""
        self.turn_rules: Counter[str] = Counter()
        """Turns that were left out of a conversation, by rule."""
        self.left: Counter[str] = Counter()
        """Figures that another run has to ask about, by reason."""
        self.told: dict[str, str] = {}
        """The service's latest words for each of these reasons."""
        self._with_questions = with_questions
        self._records_file = records_file
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open temporary files."""
        self._records = self._open(self._records_file)
        self._rejected = self._open(REJECTED_FILE)
        self._questions = self._open(QUESTIONS_FILE) if self._with_questions else None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the files in place, unless something failed."""
        self._stack.__exit__(kind, error, trace)

    def write(self, record: InstructionRecord) -> bool:
        """Append one record; return False if somebody struck it."""
        if record.record_id in self.struck:
            self.reject(record.figure_id or record.record_id, STRUCK, record_id=record.record_id)
            return False
        _write_line(self._records, record.to_json())
        self.counts["records"] += 1
        self.counts["pairs"] += sum(turn.role == "assistant" for turn in record.turns)
        self.statistics.add(record)
        self.browse.add(record)
        return True

    def write_preference(self, pair: PreferenceRecord) -> None:
        """Append one pair of replies; the report shows both."""
        _write_line(self._records, pair.to_json())
        self.counts["records"] += 1
        self.counts[f"rejected_by_{pair.rejected_by.partition(':')[0]}"] += 1
        replies = f"{pair.chosen}\n[worse, {pair.rejected_by}] {pair.rejected}"
        self.statistics.add(
            InstructionRecord(
                record_id=pair.record_id,
                images=pair.images,
                turns=(*pair.turns, Turn(role="assistant", content=replies)),
                stage=Stage.PREFER,
                modality=pair.modality,
                license=pair.license,
            )
        )

    def write_stepped(self, question: Question) -> None:
        """Append one question, with its key steps where it has any; the report shows both."""
        _write_line(self._records, question.to_json())
        self.counts["records"] += 1
        self.counts["with_key_steps"] += bool(question.key_steps)
        steps = "; ".join(" | ".join(step) for step in question.key_steps)
        self.statistics.add(
            InstructionRecord(
                record_id=question.id,
                images=question.images,
                turns=(
                    Turn(role="user", content=question.question),
                    Turn(role="assistant", content=f"{question.answer}\n[key steps] {steps}"),
                ),
                stage=Stage.REINFORCE,
            )
        )

    def write_question(self, question: Question) -> None:
        """Append the twin of a record in the form of a benchmark question."""
        if self._questions is None:
            raise ValueError("opened without questions")
        # Of several questions of one record, each has a number behind the record's id.
        if {question.id, question.id.rpartition(".")[0]} & self.struck:
            return
        _write_line(self._questions, question.to_json())
        self.counts["questions"] += 1

    def reject(self, figure_id: str, reason: str, **facts: Any) -> None:  # noqa: ANN401 - JSON is any
        """Append one rejection: the named rule, and what explains it."""
        _write_line(self._rejected, {"figure_id": figure_id, "reason": reason, **facts})
        self.counts["rejected"] += 1
        self.reasons[reason] += 1

    def drop_turn(
        self, figure_id: str, rule: str, question: str, answer: str, *, detail: str = ""
    ) -> None:
        """Append one pair that was left out of a figure's conversation."""
        turn = {"figure_id": figure_id, "reason": rule, "question": question, "answer": answer}
        turn |= {"detail": detail} if detail else {}
        _write_line(self._rejected, turn)
        self.counts["dropped_turns"] += 1
        self.turn_rules[rule] += 1

    def leave(self, figure_id: str, reason: str, *, detail: str) -> None:
        """Append a figure without an answer; running again asks about it."""
        _write_line(self._rejected, {"figure_id": figure_id, "reason": reason, "detail": detail})
        self.counts["unanswered"] += 1
        self.left[reason] += 1
        if detail:
            self.told[reason] = detail

    def _open(self, name: str) -> IO[str]:
        temporary = self._stack.enter_context(atomic_path(self.folder / name))
        return self._stack.enter_context(temporary.open("w", encoding="utf-8"))


def write_summary(folder: Path, *, image_dir: Path, facts: dict[str, Any]) -> None:
    """Write `summary.json`, whose `image_dir` the records' images are relative to.

    Args:
        folder: the instructions folder.
        image_dir: the figures folder, stored relative to `folder`.
        facts: everything else worth keeping.
    """
    relative = os.path.relpath(image_dir.resolve(), folder.resolve())
    write_json(folder / SUMMARY_FILE, {"image_dir": relative, **facts})


def _write_line(handle: IO[str], value: dict[str, Any]) -> None:
    handle.write(_encode(value) + "\n")
