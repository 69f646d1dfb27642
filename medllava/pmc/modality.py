"""Which kind of picture the words speak of, and whether they speak of several panels.

Words decide first: each domain of LLaVA-Med has its terms, charts have theirs, and the strongest
wins. A caller may add an image classifier, which is asked last and may overrule.
"""

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from PIL import Image

from medllava.errors import SetupError
from medllava.pmc.panel_captions import split_caption
from medllava.records import Modality


class ImageClassifier(Protocol):
    """Names the modality of a picture, or None where it cannot tell."""

    def __call__(self, image: Image.Image, caption: str) -> str | None:
        """Return one of the `Modality` values or None."""


def load_classifier(name: str) -> ImageClassifier | None:
    """Import `module:function`; None for an empty name.

    Raises:
        SetupError: it cannot be imported.
    """
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        loaded: ImageClassifier = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SetupError(
            f"image classifier cannot be loaded ({error}): {name!r}. Give MODULE:FUNCTION."
        ) from None
    return loaded


_TERMS: dict[Modality, tuple[str, ...]] = {
    Modality.CHEST_XRAY: (
        r"chest (?:x-?rays?|radiograph\w*|film|roentgen\w*)|\bcxrs?\b|thoracic radiograph\w*",
        r"(?:x-?ray|radiograph\w*|plain film) of (?:the |his |her )?(?:chest|thorax)",
        r"(?:postero-?anterior|antero-?posterior|\bpa\b) (?:chest|thora\w+)",
    ),
    Modality.CT: (
        r"\b(?-i:(?:HR|CB|MD|MDC|CE|NC|[Mm]icro-?)?CTs?)\b|comput(?:ed|eri[sz]ed) tomogra\w*",
        r"\bcta\b|tomography scan",
    ),
    Modality.MRI: (
        r"\b[fd]?mris?\b|(?-i:\bMR)\s+(?:of (?:the |his |her )?)?(?:brain|head|neck|skull|orbits?"
        r"|spine|knees?|shoulders?|hips?|pelvis|abdomen|liver|heart|breasts?|prostate|ankles?|wrists?"
        r"|elbows?|foot|feet|hands?|thighs?|legs?|chest|arthrogra\w+|enterogra\w+|spectr\w+|venogra\w+)\b",
        r"(?:axial|sagittal|coronal|contrast-enhanced|cardiac|brain|cranial) (?-i:MR)\b",
        r"\bmra\b|\bmri? (?:imag\w+|angio\w+|scan\w*)|magnetic resonance",
        r"\bt[12][-\u2010\u2011]?\s?(?:weighted|w\b|wi\b|flair)|(?-i:\bFLAIR\b)",
        r"diffusion[- ]weighted",
        r"\bdwi\b|\bstir\b|gadolinium",
    ),
    Modality.HISTOPATHOLOGY: (
        r"h\s?&\s?e\b|ha?ematoxylin|eosin|histolog\w*|histopatholog\w*|micro-?photograph\w*",
        r"photomicrograph\w*|immunohisto\w*|\bihc\b|trichrome|periodic acid|\bpas\b stain\w*",
        r"giemsa|papanicolaou|cytolog\w*|light microscop\w*|original magnification",
        r"biops(?:y|ies) (?:specimen|section|show|reveal)\w*|(?:stained|tissue|paraffin) sections?",
    ),
    Modality.GROSS_PATHOLOGY: (
        r"\bgross (?:pathology|specimen|appearance|examination|view|image|photograph|morphology"
        r"|anatomy|section|finding|feature)\w*|\bgrossly\b|macroscop\w*|operative specimen",
        r"(?:resected|excised|surgical|autopsy) (?:specimens?|mass|tumou?rs?|organ)",
        r"cut (?:surface|section)",
    ),
}
_OTHER_PICTURES = (
    r"flow ?charts?|flow diagram|participant flow|\bconsort\b|\bprisma\b|schematic|diagram",
    r"workflow|network|nomogram|phylogenetic|map of|bar (?:graph|chart|plot)s?|histograms?",
    r"pie charts?|box ?(?:-and-whisker )?plots?|(?:scatter|forest|funnel) ?plots?|heat ?maps?",
    r"kaplan|survival curves?|\broc\b|receiver operating|error bars?|dose[- ]response",
    r"western blots?|immunoblot\w*|\bgels?\b|fluorescen\w+|confocal|electron micro\w+",
    r"ultraso\w+|sonogra\w+|echocardio\w+|doppler|endoscop\w+|colonoscop\w+|dermoscop\w+",
    r"fundus|optical coherence|\boct\b|\bpet\b|scintigra\w+|mammogra\w+",
    r"(?<!\bct )(?<!\bmr )(?<!tomography )(?<!resonance )angiogra(?:ms?|phy)\b",
    r"electrocardio\w+|\becg\b",
)


def _compile(terms: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(terms), re.IGNORECASE)


_PATTERNS = {modality: _compile(terms) for modality, terms in _TERMS.items()}
_OTHER = _compile(_OTHER_PICTURES)
_CYCLE_THRESHOLD = re.compile(
    r"(?:cycle[- ]threshold|threshold[- ]cycle)s?(?:\s*(?:values?\s*)?\(\s*c[tq]s?\s*\))?"
    r"|\(?\bc[tq]\s+values?\b(?=.{0,60}(?:pcr|cycle|viral))",
    re.IGNORECASE,
)
"""The other CT of medicine, which is no picture."""
_FIRST_WORDS = 120
"""Characters in which the subject of a caption is named; terms there weigh double."""


def classify_modality(caption: str, mentions: Sequence[str] = ()) -> Modality:
    """Return the modality the words speak of; other where nothing or something else does.

    The caption decides; the mentions are asked only where it names no kind of picture at all.
    """
    for words in (caption, " ".join(mentions)):
        text = _CYCLE_THRESHOLD.sub(" ", words)
        scores = {modality: _score(pattern, text) for modality, pattern in _PATTERNS.items()}
        other = _score(_OTHER, text)
        best = max(scores, key=lambda modality: scores[modality])
        if scores[best] > other:
            return best
        if other or scores[best]:
            return Modality.OTHER
    return Modality.OTHER


def _score(pattern: re.Pattern[str], text: str) -> int:
    """Count the distinct terms of a kind, those at the beginning twice."""
    places: dict[str, int] = {}
    for match in pattern.finditer(text):
        places.setdefault(match[0].lower(), match.start())
    return sum(2 if start < _FIRST_WORDS else 1 for start in places.values())


def compute_panel_score(caption: str, *, num_images: int, has_gutters: bool) -> float:
    """Return how surely a figure has several panels, from 0 to 1.

    Several image files or two and more panel letters in the caption say so; bands across the
    picture alone are weak, because plots have them too.
    """
    score = 0.3 if has_gutters else 0.0
    if len(split_caption(caption).parts) > 1:
        score += 0.6
    if num_images > 1:
        score += 0.6
    return min(score, 1.0)
