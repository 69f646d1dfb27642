"""The apostrophes that the VQA challenge's normalization puts back, which LLaVA-Med's scripts use.

The table is built from the few forms it consists of. It is incomplete in the same places as theirs
("shed" and "wed" stay, "somebody'd" even loses its apostrophe), because a score depends on it.

Source: VQA evaluation, Antol et al. 2015, list of contractions.
"""

from collections.abc import Iterator


def _forms() -> Iterator[tuple[str, str]]:
    for verb in (
        *("ai", "are", "ca", "could", "did", "does", "do", "had", "has", "have", "is", "might"),
        *("must", "need", "ought", "sha", "should", "was", "were", "wo", "would"),
    ):
        yield f"{verb}nt", f"{verb}n't"
    for verb in ("could", "had", "might", "should", "would"):
        yield f"{verb}nt've", f"{verb}n't've"
        yield f"{verb}n'tve", f"{verb}n't've"
    for word in (
        *("he", "it", "she", "somebody", "someone", "something", "there", "they", "we", "who"),
        "you",
    ):
        yield f"{word}d've", f"{word}'d've"
        yield f"{word}'dve", f"{word}'d've"
    for ending, words in _ENDINGS.items():
        for word in words:
            yield f"{word}{ending}", f"{word}'{ending}"
    for plain in ("ow's'at", "'ows'at", "'ow'sat"):
        yield plain, "'ow's'at"
    for plain in ("yall'd've", "y'alld've", "y'all'dve"):
        yield plain, "y'all'd've"
    yield from (("yall", "y'all"), ("yall'll", "y'all'll"), ("y'allll", "y'all'll"))
    yield from (("maam", "ma'am"), ("oclock", "o'clock"), ("twas", "'twas"))
    yield "somebody'd", "somebodyd"


_ENDINGS = {
    "ve": (
        *("could", "might", "must", "not", "should", "would"),
        *("they", "we", "what", "where", "who", "you"),
    ),
    "d": ("he", "how", "it", "someone", "something", "there", "they", "where", "who", "you"),
    "ll": ("how", "it", "somebody", "someone", "something", "they", "what", "who", "why", "you"),
    "s": (
        *("he", "how", "somebody", "someone", "that", "there"),
        *("what", "when", "where", "who", "why"),
    ),
    "re": ("there", "they", "what", "why", "you"),
}

CONTRACTIONS: dict[str, str] = dict(_forms())
"""Word without its apostrophe to word with it."""
