"""Predictions that other tools wrote, and tables.

lmms-eval, VLMEvalKit, MedEvalKit, ms-swift, LLaMA-Factory, OpenAI's batches: a file and the
questions enter, id to text leaves. Tools differ in names of fields and in whether they keep an id,
so one table of names reads them all. Where a line has no id that the task knows, its place in the
file counts, but only if there are as many lines as questions and every question that a line repeats
is the one at its place.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medllava.errors import DataError, RecordError, SetupError
from medllava.records import Question
from medllava.score.normalize import words
from medllava.store import iter_jsonl, read_json

_TEXT = ("prediction", "predict", "filtered_resps", "resps", "response", "generated_text", "output",
         "model_answer", "model_output", "model_response", "pred", "text")  # fmt: skip
"""Fields with the model's words, the surest first; `answer` is the reference in all of them."""
_ID = ("custom_id", "id", "record_id", "question_id", "qid", "index", "idx")
_ASKED = ("question", "prompt", "query", "input")
_LISTS = ("samples", "results", "predictions", "data", "logs")
_ROWS = "row"


def is_own(file: Path) -> bool:
    """Tell our own JSONL (`id` and `text`) from what other tools write."""
    if file.suffix.lower() != ".jsonl":
        return False
    first: Mapping[str, Any] = next((line for _, line in iter_jsonl(file)), {})
    return "text" in first or not any(name in first for name in _TEXT)


def read_others(file: Path, questions: Sequence[Question]) -> dict[str, str]:
    """Return id to text of a file that another tool wrote.

    Raises:
        DataError: it cannot be read, or its lines cannot be told which question they answer.
        RecordError: a line has no text, or two lines of one id differ; names it.
        SetupError: it is an Excel file and openpyxl is not installed.
    """
    lines = [(where, _flat(line)) for where, line in _iter_lines(file)]
    texts = [_text(line, where=where) for where, line in lines]
    keys = _keys(lines, questions, file=file)
    found: dict[str, str] = {}
    for key, text, (where, _) in zip(keys, texts, lines, strict=True):
        if found.setdefault(key, text) != text:
            raise RecordError(f"id {key!r} has two different texts: {where}. Keep one.")
    return found


def _iter_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        rows: Iterator[Any] = (line for _, line in iter_jsonl(file))
    elif suffix == ".json":
        rows = iter(_listed(read_json(file), file=file))
    elif suffix in (".csv", ".tsv"):
        rows = iter(_table(file, delimiter="," if suffix == ".csv" else "\t"))
    elif suffix == ".xlsx":
        rows = _sheet(file)
    else:
        raise DataError(f"predictions are JSONL, JSON, CSV, TSV or XLSX: {file}.")
    for number, row in enumerate(rows, start=1):
        where = f"{file}, {'line' if suffix == '.jsonl' else _ROWS} {number}"
        if not isinstance(row, Mapping):
            raise RecordError(f"a prediction must be an object: {where}.")
        yield where, row


def _listed(value: Any, *, file: Path) -> list[Any]:  # noqa: ANN401 - JSON is any
    if isinstance(value, Mapping):
        inner = next((value[name] for name in _LISTS if isinstance(value.get(name), list)), None)
        if inner is not None:
            return list(inner)
        if value and all(isinstance(text, str) for text in value.values()):
            return [{"id": key, "text": text} for key, text in value.items()]
    if not isinstance(value, list):
        raise DataError(f"not a list of predictions: {file}. Name the file of single answers.")
    return value


def _table(file: Path, *, delimiter: str) -> list[dict[str, Any]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            return list(csv.DictReader(handle, delimiter=delimiter))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"not a readable table ({error}): {file}.") from None


def _sheet(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first sheet under its first row."""
    try:
        import openpyxl  # noqa: PLC0415 - an optional package, only for Excel files
    except ImportError:
        raise SetupError(
            f"an Excel file needs openpyxl: {file}. Run pip install 'medllava[excel]', "
            "or save it as CSV."
        ) from None
    try:
        sheet = openpyxl.load_workbook(file, read_only=True, data_only=True).worksheets[0]
    except Exception as error:  # noqa: BLE001 - whatever a broken archive raises, it is named
        raise DataError(f"not a readable Excel file ({error}): {file}.") from None
    rows = sheet.iter_rows(values_only=True)
    heading = [str(name) for name in next(rows, ())]
    for row in rows:
        yield dict(zip(heading, row, strict=False))


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line with the fields of the benchmark's own row, which lmms-eval nests."""
    plain = {key.strip().lower(): value for key, value in line.items() if isinstance(key, str)}
    doc = plain.get("doc")
    if isinstance(doc, str):
        try:
            doc = json.loads(doc)
        except ValueError:
            doc = None
    return {**doc, **plain} if isinstance(doc, Mapping) else plain


def _text(line: Mapping[str, Any], *, where: str) -> str:
    for name in _TEXT:
        value = line.get(name)
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping):
            value = _batch_text(value, where=where)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:g}"
        if isinstance(value, str):
            return value
    raise RecordError(f"no text of the model ({', '.join(_TEXT[:5])}, ...): {where}.")


def _batch_text(response: Mapping[str, Any], *, where: str) -> str | None:
    """Return the words in the body of a reply of OpenAI's batch service."""
    body = response.get("body", response)
    try:
        return str(body["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        status = response.get("status_code")
        raise RecordError(f"a request without an answer (status {status}): {where}.") from None


def _keys(
    lines: Sequence[tuple[str, Mapping[str, Any]]], questions: Sequence[Question], *, file: Path
) -> list[str]:
    """Return the id of each line: the field whose values the task knows, else its place."""
    known = {question.id for question in questions}
    for name in _ID:
        values = [_id_text(line.get(name)) for _, line in lines]
        if known <= set(values):
            return values
    best = max(_ID, key=lambda name: sum(_id_text(line.get(name)) in known for _, line in lines))
    values = [_id_text(line.get(best)) for _, line in lines]
    if any(value in known for value in values):
        return values  # the caller names what is missing
    if len(lines) != len(questions):
        raise DataError(
            f"{len(lines):,} lines without an id of the task, {len(questions):,} questions: "
            f"{file}. Add id to each line, or ask with the same --split and --limit."
        )
    order = sorted(range(len(lines)), key=lambda i: _place(lines[i][1], i))
    keys = [""] * len(lines)
    for question, i in zip(questions, order, strict=True):
        _check_same(question, *lines[i])
        keys[i] = question.id
    return keys


def _id_text(value: Any) -> str:  # noqa: ANN401 - JSON is any
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a spreadsheet's number
    return "" if value is None or isinstance(value, dict | list) else str(value).strip()


def _place(line: Mapping[str, Any], number: int) -> int:
    """Return lmms-eval's `doc_id`, the place in the benchmark, else the place in the file."""
    place = line.get("doc_id")
    return place if isinstance(place, int) else number


def _check_same(question: Question, where: str, line: Mapping[str, Any]) -> None:
    for name in _ASKED:
        said = line.get(name)
        if isinstance(said, str) and said.strip():
            asked = " ".join(words(question.question))
            if asked not in " ".join(words(said)):
                raise DataError(
                    f"{name} is not question {question.id!r} of the task at this place: {where} "
                    f"({said!r:.60}). Add id to each line."
                )
            return
