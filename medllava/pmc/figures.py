"""One figure becomes its records: the whole, and its panels where they are asked for.

What needs no image is judged first, so that none is fetched in vain: rights, words, language and
kind. Then the images that a figure still in the running names are read and written.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from medllava.images.encode import encode_image
from medllava.images.limits import ImageError
from medllava.images.perceptual_hash import compute_perceptual_hash
from medllava.language import UNKNOWN
from medllava.pmc.archive import ObjectError, UnansweredError, match_image
from medllava.pmc.config import FetchConfig
from medllava.pmc.draft import Draft, Rejection
from medllava.pmc.images import CleanImage, clean_image, write_image
from medllava.pmc.jats import Figure, first_caption
from medllava.pmc.modality import ImageClassifier, classify_modality, compute_panel_score
from medllava.pmc.panels import Panel, SplitFigure, split_figure
from medllava.pmc.rights import License, find_own_license, find_rights_flag, is_allowed
from medllava.records import FigureRecord, Modality

_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
SURE_ENOUGH = 0.3
"""Confidence from which a split is believed; below it the figure stays whole."""
_KINDS = {"jpg": "JPEG", "png": "PNG"}
_SEVERAL = 0.5
"""Panel score from which a figure counts as several panels."""


class FigureReader:
    """Makes records of figures under one configuration."""

    def __init__(
        self, config: FetchConfig, *, snapshot: str, classifier: ImageClassifier | None
    ) -> None:
        """Remember the rules."""
        self._config = config
        self._snapshot = snapshot
        self._classifier = classifier

    def read(
        self, figure: Figure, figure_id: str, number: int, facts: dict[str, Any], draft: Draft
    ) -> list[dict[str, Any]]:
        """Return what is kept of a figure: the whole first, then its panels, images written.

        Args:
            figure: as the XML has it.
            figure_id: of the record.
            number: of the figure in its article, from 1.
            facts: of the article.
            draft: where counts and panels that are left out are written down.

        Raises:
            Rejection: the figure is left out.
            UnansweredError: a service did not answer; the article stays open.
        """
        config = self._config
        language, caption = self._choose_caption(figure, facts)
        license_ = self._check_rights(figure, facts)
        flag = find_rights_flag(_all_captions(figure), figure.own, figure.mentions)
        modality = classify_modality(caption, figure.mentions)
        self._check_words(figure, caption, flag)
        if config.languages and language not in config.languages:
            raise Rejection("language", "language", f"{language}: {caption[:100]}")
        if self._classifier is None:
            self._check_modality(modality)
        loaded = [] if config.captions_only else list(self._load_images(figure, draft))
        images = [image for image, _ in loaded]
        if images and self._classifier is not None:
            modality = self._ask_classifier(images[0], caption) or modality
            self._check_modality(modality)
        found = self._split(images, caption)
        others = [(code, text) for code, text in figure.captions if text != caption]
        record = FigureRecord(
            figure_id=figure_id,
            pmcid=facts["pmcid"],
            version=facts["version"],
            pmid=facts["pmid"],
            doi=facts["doi"],
            label=figure.label,
            caption=caption,
            caption_language=language,
            other_captions=tuple(text for _, text in others),
            other_caption_languages=tuple(code for code, _ in others),
            in_text_mentions=figure.mentions,
            images=tuple(
                draft.image_path(number, part, image.extension) for part, image in enumerate(images)
            ),
            modality=modality,
            context=figure.context,
            panel_score=compute_panel_score(
                caption,
                num_images=len(figure.graphics),
                has_gutters=_is_split(found) or any(image.has_gutters for image in images),
            ),
            license=license_.code,
            license_url=license_.url,
            license_basis=license_.basis,
            rights_flag=flag,
            credit=figure.own.credit,
            is_retracted=facts["is_retracted"],
            citation=facts["citation"],
            article_language=facts["language"],
            article_type=facts["article_type"],
            journal=facts["journal"],
            published=facts["published"],
            keywords=tuple(facts["keywords"]),
            mesh=tuple(facts["mesh"]),
            sha256=tuple(image.sha256 for image in images),
            source_md5=tuple(md5 for _, md5 in loaded),
            snapshot=self._snapshot,
        )
        if config.panels == "drop" and record.panel_score >= _SEVERAL:
            raise Rejection("panels", "several-panels", f"score {record.panel_score:.1f}")
        made = [(record, images)]
        if found is not None:
            made += self._read_panels(record, images[0], found, number, draft)
        for one, pictures in made:
            for path, image in zip(one.images, pictures, strict=True):
                write_image(config.output_dir / path, image.data)
            draft.count("images", len(pictures))
        return [
            {
                "record": one.to_json(),
                "looks": [image.perceptual_hash for image in pictures],
                "inherited": figure.is_inherited,
            }
            for one, pictures in made
        ]

    def _split(self, images: list[CleanImage], caption: str) -> SplitFigure | None:
        """Look for the panels of a figure of one image, if they are asked for."""
        if self._config.panels != "split" or len(images) != 1:
            return None
        return split_figure(images[0].pixels, caption)

    def _read_panels(
        self,
        whole: FigureRecord,
        image: CleanImage,
        found: SplitFigure,
        number: int,
        draft: Draft,
    ) -> Iterator[tuple[FigureRecord, list[CleanImage]]]:
        """Yield a record and picture for each panel that may be kept; the others are named.

        Only panels that the caption names are taken: a box without words of its own teaches
        nothing. A figure whose caption names panels that were not found with confidence is counted
        as left whole.
        """
        named = [(n, panel) for n, panel in enumerate(found.panels, start=1) if panel.label]
        if not _is_split(found) or not named:
            draft.count("left_whole", int(found.named > 1))
            return
        for part, panel in named:
            draft.count("panels")
            draft.count("figures")
            try:
                record, picture = self._cut_panel(whole, image, panel)
            except Rejection as rejection:
                draft.reject(f"{whole.figure_id}/{panel.label}", rejection)
                continue
            path = draft.image_path(number, part, picture.extension)
            score = round(1.0 - found.confidence, 3)
            yield (
                dataclasses.replace(record, images=(path,), panel_score=score),
                [picture],
            )

    def _cut_panel(
        self, whole: FigureRecord, image: CleanImage, panel: Panel
    ) -> tuple[FigureRecord, CleanImage]:
        """Return one panel's record, without path and score, and its picture.

        Raises:
            Rejection: it is too small, or of a kind that is not asked for.
        """
        left, top, right, bottom = panel.box
        width, height = right - left, bottom - top
        if min(width, height) < self._config.min_pixels:
            raise Rejection("panels", "panel-small", f"{width} x {height} pixels")
        modality = classify_modality(panel.caption, ())
        if modality is Modality.OTHER:
            modality = whole.modality
        if self._config.modalities and modality not in self._config.modalities:
            raise Rejection("panels", "panel-modality", modality.value)
        pixels = image.pixels.crop(panel.box)
        data = encode_image(pixels, _KINDS[image.extension])
        sha256 = hashlib.sha256(data).hexdigest()
        record = dataclasses.replace(
            whole,
            figure_id=f"{whole.figure_id}/{panel.label}",
            caption=panel.caption,
            modality=modality,
            panel=panel.label,
            panel_box=panel.box,
            whole_figure_id=whole.figure_id,
            sha256=(sha256,),
        )
        return record, CleanImage(
            pixels=pixels,
            data=data,
            extension=image.extension,
            sha256=sha256,
            perceptual_hash=compute_perceptual_hash(pixels),
            has_gutters=False,
        )

    def _choose_caption(self, figure: Figure, facts: dict[str, Any]) -> tuple[str, str]:
        """Return language and text of the caption that is asked for, else the first choice."""
        wanted = [*self._config.languages, "en", facts["language"]]
        caption = first_caption(figure.captions, wanted)
        language = next((code for code, text in figure.captions if text == caption), UNKNOWN)
        return language, caption

    def _check_rights(self, figure: Figure, facts: dict[str, Any]) -> License:
        """Return the license of a figure: its own, if it has one, else the article's."""
        own = find_own_license(_all_captions(figure), figure.own)
        if own.is_contradicting and "any" not in self._config.licenses:
            raise Rejection("rights", "license-conflict", f"the figure's own: {own.basis}")
        if own.code is None:
            return License(
                code=facts["license"], url=facts["license_url"], basis=facts["license_basis"]
            )
        if not is_allowed(own.code, self._config.licenses):
            raise Rejection("rights", "license", f"the figure's own: {own.code} ({own.basis})")
        return own

    def _check_words(self, figure: Figure, caption: str, flag: str | None) -> None:
        """Apply everything that needs no image, so that none is fetched in vain."""
        config = self._config
        if not figure.graphics:
            raise Rejection("figure", "no-graphic", "the figure names no image")
        if figure.is_supplement and not config.keep_supplements:
            raise Rejection("figure", "supplement", figure.label or figure.context)
        if flag is not None and not config.keep_flagged:
            raise Rejection("rights", "third-party", flag)
        words = _count_words(caption)
        if not words:
            raise Rejection("caption", "no-caption")
        if words < config.min_caption_words:
            raise Rejection("caption", "caption-short", f"{words} words")
        if words > config.max_caption_words:
            raise Rejection("caption", "caption-long", f"{words} words")

    def _check_modality(self, modality: Modality) -> None:
        if self._config.modalities and modality not in self._config.modalities:
            raise Rejection("modality", "modality", modality.value)

    def _load_images(self, figure: Figure, draft: Draft) -> Iterator[tuple[CleanImage, str]]:
        """Yield every image of a figure; one that fails fails the figure."""
        config = self._config
        for names in figure.graphics:
            name = match_image(names, draft.files.image_names)
            if name is None:
                raise Rejection("image", "image-missing", ", ".join(names))
            try:
                source = draft.files.load_image(name)
                draft.count("source_bytes", len(source.data))
                image = clean_image(
                    source.data,
                    max_pixels=config.max_pixels,
                    name=name,
                    # Where panels are asked for, their own search tells.
                    look_for_gutters=config.panels != "split" or len(figure.graphics) > 1,
                )
            except ObjectError as error:
                raise Rejection("image", error.reason, f"{name}: {error.detail}") from None
            except ImageError as error:
                raise Rejection("image", error.reason, str(error)) from None
            except UnansweredError as error:
                if not draft.gives_up:
                    raise
                raise Rejection("image", error.reason, f"{name}: {error}") from None
            if min(image.pixels.size) < config.min_pixels:
                width, height = image.pixels.size
                raise Rejection("image", "image-small", f"{name}: {width} x {height} pixels")
            yield image, source.md5

    def _ask_classifier(self, image: CleanImage, caption: str) -> Modality | None:
        ask: Callable[..., str | None] | None = self._classifier
        answer = ask(image.pixels, caption) if ask is not None else None
        return Modality(answer) if answer else None


def _is_split(found: SplitFigure | None) -> bool:
    """Tell whether panels were found and can be believed."""
    return found is not None and len(found.panels) > 1 and found.confidence >= SURE_ENOUGH


def _all_captions(figure: Figure) -> str:
    """Return the caption in all languages: what one says of rights holds for all."""
    return " ".join(text for _, text in figure.captions)


def _count_words(text: str) -> int:
    """Return the words of a caption; two characters of Chinese or Japanese count as one."""
    return len(_CJK.sub(" ", text).split()) + len(_CJK.findall(text)) // 2
