"""A reply to the answer it ends with: reasoning, markup and the words around an answer go.

A reply enters, the text that is scored leaves. Reasoning inside tags is no part of an answer, and
of several declarations ("Answer: A ... actually, answer: B") the last one holds. What a reply
merely mentions stays in the text; `closed` decides whether it is an answer.
"""

import ast
import json
import re
import unicodedata
from functools import lru_cache
from typing import Any

_THINK = r"think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad|cot"
_REASONING = (
    (rf"<(?:{_THINK})\b[^>]*>", rf"</(?:{_THINK})\s*>"),
    (r"\[(?:think|thinking)\]", r"\[/(?:think|thinking)\]"),
    (r"<\|?begin_of_thought\|?>", r"<\|?end_of_thought\|?>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    (r"<unused94>", r"<unused95>"),
    (r"<\|channel\|>analysis", r"<\|channel\|>final<\|message\|>"),
)
"""Opening and closing marks that models put around their reasoning."""
_PAIRS = tuple(
    (re.compile(start, re.IGNORECASE), re.compile(end, re.IGNORECASE)) for start, end in _REASONING
)
_ANSWER_NAMES = r"final_answer|final-answer|answer|final|response|choice|option|solution"
_ANSWER_TAG = re.compile(rf"<({_ANSWER_NAMES})\b[^>]*>(.*?)(?:</\1\s*>|$)", re.I | re.S)
_TAG = re.compile(r"</?[A-Za-z][\w-]*\s*/?>|<\|[^|<>\n]{1,40}\|>|\[/?INST\]")
_FENCE = re.compile(r"```[\w-]*\n?(.*?)(?:```|$)", re.S)
_JSON_KEYS = (
    *("final_answer", "final answer", "finalanswer", "answer", "final", "choice", "option"),
    *("prediction", "predicted_answer", "selected", "label", "response", "result", "output"),
)
_JSON_FIELD = re.compile(
    r"[\"'](?:final[_ ]?answer|answer|choice|option|prediction)[\"']\s*:\s*"
    r"(?:\"([^\"\n]*)\"?|'([^'\n]*)'?|([A-Za-z]+)\b)",
    re.I,
)
_LATEX_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|tt|sf)?|math(?:rm|bf|it|sf|tt|bb)?|mbox|mathbf)\b")
_LATEX_MARKS = re.compile(r"\\[()\[\]!,;:]|\$\$?")
_MARKDOWN = re.compile(r"\*{1,3}|_{2,3}|`+|^\s{0,3}#{1,6}\s+|^\s*>\s+", re.M)
_BULLET = re.compile(r"^\s*[-*\u2022]\s+", re.M)

_IS = r"(?:\s*(?:[:=]|->|=>|\u2192|\u2794)\s*)"
_ENGLISH = (
    r"(?:\b(?:final|correct|right|best|only|predicted|chosen|selected|most\s+\w+)\s+)*"
    r"\b(?:answer|option|choice|response|conclusion|verdict)\b"
    r"(?:\s+(?:to|for)\s+(?:the|this|your)\s+\w+)?"
    rf"(?:\s+(?:is|would\s+be|should\s+be|must\s+be|will\s+be)\b{_IS}?|{_IS})"
)
_OTHER_WORDS = "|".join(
    (
        *("respuesta", "opci\u00f3n", "r\u00e9ponse", "reponse", "antwort", "risposta", "resposta"),
        *("antwoord", "svar", "vastaus", "odpowied\u017a", "odpov\u011b\u010f", "v\u00e1lasz"),
        *("cevap", "yan\u0131t", "jawaban", "\u0111\u00e1p \u00e1n", "r\u0103spuns"),
        *(
            "\u043e\u0442\u0432\u0435\u0442",
            "\u0432\u0456\u0434\u043f\u043e\u0432\u0456\u0434\u044c",
        ),
        *(
            "\u03b1\u03c0\u03ac\u03bd\u03c4\u03b7\u03c3\u03b7",
            "\u0627\u0644\u0625\u062c\u0627\u0628\u0629",
        ),
        *(
            "\u0627\u0644\u062c\u0648\u0627\u0628",
            "\u05ea\u05e9\u05d5\u05d1\u05d4",
            "\u0909\u0924\u094d\u0924\u0930",
        ),
        *(
            "\u0989\u09a4\u09cd\u09a4\u09b0",
            "\u0e04\u0e33\u0e15\u0e2d\u0e1a",
            "\uc815\ub2f5",
            "\ub2f5",
        ),
        *(
            "\u56de\u7b54",
            "\u7b54\u3048",
            "\u6b63\u89e3",
            "\u7b54\u6848",
            "\u6b63\u786e\u9009\u9879",
        ),
    )
)
_OTHER = (
    rf"(?:{_OTHER_WORDS})(?:\s+(?:final|correcta?|finale?|est|es|ist|\u00e8|\u00e9|is))*"
    r"\s*(?:\u662f|\u4e3a|\u306f|\ub294|\uc740)?\s*(?:[:=]|->|\u2192)\s*"
    r"|(?:\u6700\u7ec8|\u6b63\u786e)?\u7b54\u6848\s*(?:\u5e94\u8be5|\u5e94)?\s*(?:\u662f|\u4e3a|\u9009)\s*:?\s*"
    r"|\b(?:la\s+)?respuesta\s+(?:correcta\s+)?es\b\s*:?\s*"
    r"|\bla\s+r\u00e9ponse\s+(?:correcte\s+)?est\b\s*:?\s*"
    r"|\bdie\s+(?:richtige\s+)?antwort\s+(?:ist|lautet)\b\s*:?\s*"
    r"|\bla\s+risposta\s+(?:corretta\s+)?\u00e8(?!\w)\s*:?\s*"
    r"|\ba\s+resposta\s+(?:correta\s+)?\u00e9(?!\w)\s*:?\s*"
)
_CUE = re.compile(rf"(?:{_ENGLISH}|{_OTHER})", re.I)
RETRACTION = re.compile(
    r"\b(?:wait|actually|correction|on second thought|i mean|scratch that|rather|instead|"
    r"no longer|hmm|but (?:it|this) (?:could|may|might)|alternatively)\b",
    re.I,
)
"""Words with which an answer is taken back."""


def final_answer(reply: str) -> str:
    """Return the part of a reply that is its answer; empty where reasoning was cut off."""
    return declared_answer(reply)[0]


@lru_cache(maxsize=65536)
def declared_answer(reply: str) -> tuple[str, bool]:
    """Return the answer of a reply, and whether a tag, box, field or cue declared it as such."""
    text = without_reasoning(unicodedata.normalize("NFKC", reply))
    tagged = _ANSWER_TAG.findall(text)
    declared = bool(tagged)
    if tagged:
        text = tagged[-1][1]
    boxed = _boxed(text)
    if boxed is not None:
        text, declared = boxed, True
    field = _field(text)
    if field is not None:
        text, declared = field, True
    text = _plain(text)
    said = _after_last_cue(text)
    return (said, True) if said is not None else (text, declared)


def without_reasoning(text: str) -> str:
    """Return a reply without what a model thought aloud; nothing is left of what was cut off."""
    for start, end in _PAIRS:
        while True:
            opened = start.search(text)
            closed = list(end.finditer(text))
            if opened is None:
                # The template has opened the tag already.
                text = text[closed[-1].end() :] if closed else text
                break
            first = next((mark for mark in closed if mark.start() >= opened.end()), None)
            if first is None:
                text = text[: opened.start()]
                break
            text = text[: opened.start()] + " " + text[first.end() :]
    return text


def _boxed(text: str) -> str | None:
    """Return the content of the last LaTeX box; of several joined by "or", all of them."""
    found: list[tuple[int, int, str]] = []
    for mark in re.finditer(r"\\f?boxed\s*\{", text):
        depth, end = 1, mark.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found.append((mark.start(), end, text[mark.end() : end - (depth == 0)]))
    if not found:
        return None
    answer = found[-1][2]
    for (_, before, content), (after, _, _) in zip(found[-2::-1], found[:0:-1], strict=False):
        if not re.fullmatch(r"[\s$]*(?:,|or|and|/|&)*[\s$]*", text[before:after]):
            break
        answer = f"{content} or {answer}" if content.strip() != answer.strip() else answer
    return answer


def _field(text: str) -> str | None:
    """Return the answer field of a JSON reply, also of one that was cut off."""
    inner = _FENCE.search(text)
    body = (inner.group(1) if inner and "{" in inner.group(1) else text).strip()
    start, end = body.find("{"), body.rfind("}")
    if start < 0 or ('"' not in body and "'" not in body):
        return None
    value = _parse(body[start : end + 1]) if end > start else None
    if isinstance(value, dict):
        named = {str(key).strip().lower(): item for key, item in value.items()}
        for key in _JSON_KEYS:
            if key in named:
                return _said(named[key])
        return None
    cut = _JSON_FIELD.findall(body[start:])
    return next((part for part in cut[-1] if part), "") if cut else None


def _parse(text: str) -> Any:  # noqa: ANN401 - JSON is any
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _said(value: Any) -> str:  # noqa: ANN401 - JSON is any
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_said(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(_said(item) for item in value.values())
    return "" if value is None else str(value)


def _plain(text: str) -> str:
    """Return text without markup; what the markup held stays."""
    text = _LATEX_MARKS.sub(" ", _LATEX_TEXT.sub("", text)) if "\\" in text or "$" in text else text
    text = _FENCE.sub(lambda fence: fence.group(1), text)
    text = _TAG.sub(" ", text)
    text = _BULLET.sub("", _MARKDOWN.sub("", text))
    return re.sub(r"\{\s*([^{}\n]{1,80}?)\s*\}", r"\1", text).replace("\\%", "%").strip()


def _after_last_cue(text: str) -> str | None:
    """Return what the last declaration declares; None where there is none, or it says nothing."""
    for cue in reversed(list(_CUE.finditer(text))):
        rest = text[cue.end() :].strip()
        if not rest:
            continue
        first = rest.split("\n", 1)[0].strip()
        # What is taken back further down is no clear answer, so it has to stay in sight.
        return rest if RETRACTION.search(rest) else first
    return None
