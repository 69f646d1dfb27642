"""What an export made and how it compares with transformers; torch-free."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medllava.layout import ADAPTER_DIR
from medllava.provenance import is_gguf

REQUIRED = 0.9
"""Share of greedy answers that must be the same; the rest are near ties of two tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How an exported file compares with transformers."""

    prompts: int
    same_text: int
    """Prompts of as many tokens, pictures included, before anything is answered."""
    same_answers: int
    """Greedy answers that agree token by token."""
    ties: int
    """Answers that part where transformers itself gives two tokens almost the same chance."""
    tokens_per_second: float
    reference_tokens_per_second: float
    """Of transformers in float32, on the same threads."""

    @property
    def is_same(self) -> bool:
        """Whether all prompts agree, and so many answers that only near ties are left."""
        return self.same_text == self.prompts and self.agreement >= REQUIRED

    @property
    def agreement(self) -> float:
        """Share of answers that agree, or part at a tie."""
        return (self.same_answers + self.ties) / self.prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One format that was written."""

    name: str
    files: tuple[Path, ...]
    parity: Parity
    use: tuple[str, ...] = ()
    """Lines of the page that say how to run it."""

    @property
    def checkpoint(self) -> str:
        """What `--ckpt` is to be given to ask it."""
        first = self.files[0]
        if is_gguf(first.name):
            return str(first)
        return f"{first.parent}+MODEL" if self.name == ADAPTER_DIR else str(first.parent)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        files = {path.name: path.stat().st_size for path in self.files}
        return {"name": self.name, "files": files, "parity": asdict(self.parity)}


def render_readme(exports: Sequence[Export]) -> str:
    """Return how to run the files, and how they compare."""
    return f"# Exported files\n\n{parity_lines(exports)}\n"


def parity_lines(exports: Sequence[Export]) -> str:
    """Return the comparison as Markdown, with the commands that run the files."""
    lines = [
        "| format | size | same prompts | same answers | ties | tokens/s | transformers |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for export in exports:
        p, size = export.parity, sum(path.stat().st_size for path in export.files) / 1e6
        lines.append(
            f"| {export.name} | {size:,.1f} MB | {p.same_text} of {p.prompts} | "
            f"{p.same_answers} of {p.prompts} | {p.ties} | {p.tokens_per_second:.1f} | "
            f"{p.reference_tokens_per_second:.1f} |"
        )
    lines += [
        "",
        "Greedy answers of the exported files and of transformers in float32 on one machine; a tie "
        "parts where both give two tokens almost the same chance. Tokens/s are of answers, in the "
        "seconds of pictures and prompts too.",
    ]
    for use in dict.fromkeys(export.use for export in exports):
        lines += ["", *use]
    return "\n".join(lines)
