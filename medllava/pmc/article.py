"""One article from metadata to outcome: decide as early as possible, read as little as possible.

Metadata first (license, retraction), then the XML (type, license again, figures and their words),
then only the images that a figure still in the running names. What is dropped on the way is written
down with the stage and the reason.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from medllava.images.limits import ImageError
from medllava.language import UNKNOWN
from medllava.pmc.archive import ArticleFiles, Metadata, ObjectError, UnansweredError, match_image
from medllava.pmc.config import FetchConfig
from medllava.pmc.images import CleanImage, clean_image, write_image
from medllava.pmc.jats import Article, Figure, first_caption, read_article
from medllava.pmc.llava_urls import image_stem
from medllava.pmc.modality import ImageClassifier, classify_modality, compute_panel_score
from medllava.pmc.panel_records import iter_panel_records
from medllava.pmc.rights import (
    License,
    combine,
    find_own_license,
    find_rights_flag,
    is_allowed,
)
from medllava.pmc.state import Item, Outcome
from medllava.pmc.xml import XmlError
from medllava.records import FigureRecord, Modality

_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff]")


class Rejection(Exception):  # noqa: N818 - a decision, not a fault
    """An article or a figure is left out."""

    def __init__(self, stage: str, reason: str, detail: str = "") -> None:
        """Say where, under which word it is counted, and what exactly."""
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage, self.reason, self.detail = stage, reason, detail[:300]


@dataclass(slots=True, kw_only=True)
class _Draft:
    """An article being worked on."""

    files: ArticleFiles
    key: str
    gives_up: bool = False
    """An image that is not given costs its figure, not the article's turn."""
    figures: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def reject(self, key: str, rejection: Rejection) -> None:
        self.rejected.append(
            {
                "key": key,
                "stage": rejection.stage,
                "reason": rejection.reason,
                "detail": rejection.detail,
            }
        )

    def image_path(self, number: int, part: int, extension: str) -> str:
        """Return where an image goes: 256 folders, and a name that nobody else chose.

        Two local files may hold the same article; each keeps its own images until one is left out.
        """
        item = self.files.item
        name = self.key if self.key.startswith("PMC") else "article-" + _digest(self.key)[:16]
        if item != self.key:
            name += "-" + _digest(item)[:8]
        return f"images/{_digest(self.key)[:2]}/{name}_f{number:03d}_{part}.{extension}"

    def count(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


class ArticleReader:
    """Makes outcomes of articles under one configuration."""

    def __init__(
        self,
        config: FetchConfig,
        *,
        snapshot: str,
        classifier: ImageClassifier | None = None,
        wanted: Mapping[str, set[str]] | None = None,
    ) -> None:
        """Remember the rules.

        Args:
            config: filters and the output folder.
            snapshot: date of the listing, written into every record.
            classifier: names the modality of an image.
            wanted: image stems by PMCID; other figures are not looked at. None takes all.
        """
        self._wanted = wanted
        self._config = config
        self._snapshot = snapshot
        self._classifier = classifier

    def read(
        self, item: Item, articles: Iterator[ArticleFiles], *, gives_up: bool = False
    ) -> list[Outcome]:
        """Return the outcomes of one work item.

        Args:
            item: what is read.
            articles: those that it holds.
            gives_up: an object that is not given counts as rejected.

        Raises:
            UnansweredError: a service did not answer; the item stays open for a later run.
        """
        outcomes: list[Outcome] = []
        try:
            outcomes.extend(self._read_one(item, files, gives_up) for files in articles)
        except (ObjectError, XmlError) as error:
            # The item broke off; what stood before the damage is kept.
            outcomes.append(_failed(item, error.reason, error.detail))
        except UnansweredError as error:
            if not gives_up:
                raise
            outcomes.append(_failed(item, error.reason, str(error)))
        return outcomes

    def _read_one(self, item: Item, files: ArticleFiles, gives_up: bool) -> Outcome:  # noqa: FBT001
        metadata = files.metadata
        draft = _Draft(
            files=files, gives_up=gives_up, key=item.name if metadata is not None else ""
        )
        facts: dict[str, Any] = {}
        try:
            if metadata is not None:
                self._check_metadata(metadata)
            root = files.load_root()
            article = read_article(root)
            draft.key = draft.key or article.key or _anonymous_key(files.item)
            license_ = self._check_article(article, metadata, draft)
            facts = _describe(article, metadata, license_, draft.key)
            self._read_figures(article, facts, draft)
        except Rejection as rejection:
            draft.key = draft.key or files.item
            draft.reject(draft.key, rejection)
        except (ObjectError, XmlError) as error:
            draft.key = draft.key or files.item
            draft.reject(draft.key, Rejection("article", error.reason, error.detail))
        except (
            RecursionError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
            TypeError,
        ) as error:
            # The boundary of one article: a structure nobody foresaw must not end the run.
            draft.key = draft.key or files.item
            draft.figures.clear()
            draft.reject(draft.key, Rejection("article", "unreadable", repr(error)))
        draft.count("articles")
        draft.count("articles_with_figures", int(bool(draft.figures)))
        return Outcome(
            item=item.name,
            order=Item(name=draft.key).order,
            article=facts or {"key": draft.key},
            figures=draft.figures,
            rejected=draft.rejected,
            counts=draft.counts,
            sources=draft.sources,
            metadata_md5=files.metadata_md5,
        )

    def _check_metadata(self, metadata: Metadata) -> None:
        config = self._config
        if metadata.is_retracted and not config.keep_retracted:
            raise Rejection("article", "retracted", "the archive marks it as retracted")
        if not is_allowed(metadata.license, config.licenses):
            raise Rejection("article", "license", f"{metadata.license or 'no license code'}")

    def _check_article(self, article: Article, metadata: Metadata | None, draft: _Draft) -> License:
        """Return the license that holds, after looking at both places that state one."""
        config = self._config
        if article.retracts and not config.keep_retracted:
            raise Rejection("article", "notice", f"article type {article.article_type!r}")
        found = article.license
        if found.is_contradicting and "any" not in config.licenses:
            draft.count("license_conflicts")
            raise Rejection("article", "license-conflict", found.basis)
        held = found
        if metadata is not None:
            archive = License(code=metadata.license, basis=f"archive: {metadata.license}")
            held = combine([archive, found]) if metadata.license else archive
            if found.code is not None and metadata.license != found.code:
                draft.count("license_conflicts")
                if not is_allowed(held.code, config.licenses):
                    raise Rejection(
                        "article",
                        "license-conflict",
                        f"archive says {metadata.license}, the XML {found.code}: {found.basis}",
                    )
            if held.code == found.code:
                held = found
        if not is_allowed(held.code, config.licenses):
            raise Rejection("article", "license", held.basis or "no license stated")
        return held

    def _read_figures(self, article: Article, facts: dict[str, Any], draft: _Draft) -> None:
        seen: dict[str, int] = {}
        for number, figure in enumerate(article.figures, start=1):
            draft.count("figures")
            draft.count("mentions", len(figure.mentions))
            name = figure.xml_id or f"figure-{number}"
            seen[name] = seen.get(name, 0) + 1
            figure_id = f"{draft.key}/{name}" + (f"~{seen[name]}" if seen[name] > 1 else "")
            stems = {image_stem(name) for names in figure.graphics for name in names}
            if self._wanted is not None and not stems & self._wanted.get(facts["pmcid"], set()):
                draft.count("figures", -1)
                continue
            draft.sources.update(dict.fromkeys(sorted(stems), figure_id))
            try:
                draft.figures += self._read_figure(figure, figure_id, number, facts, draft)
            except Rejection as rejection:
                draft.reject(figure_id, rejection)

    def _read_figure(
        self, figure: Figure, figure_id: str, number: int, facts: dict[str, Any], draft: _Draft
    ) -> list[dict[str, Any]]:
        config = self._config
        language, caption = self._choose_caption(figure, facts)
        others = [(code, text) for code, text in figure.captions if text != caption]
        license_ = self._check_rights(figure, facts)
        flag = find_rights_flag(_all_captions(figure), figure.own)
        modality = classify_modality(caption, figure.mentions)
        self._check_words(figure, caption, flag)
        if self._config.languages and language not in self._config.languages:
            raise Rejection("language", "language", f"{language}: {caption[:100]}")
        if self._classifier is None:
            self._check_modality(modality)
        images: list[CleanImage] = []
        paths: list[str] = []
        md5s: list[str] = []
        if not config.captions_only:
            for part, (image, md5) in enumerate(self._load_images(figure, draft)):
                images.append(image)
                md5s.append(md5)
                paths.append(draft.image_path(number, part, image.extension))
            if self._classifier is not None:
                modality = self._ask_classifier(images[0], caption) or modality
                self._check_modality(modality)
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
            images=tuple(paths),
            modality=modality,
            context=figure.context,
            panel_score=compute_panel_score(
                caption,
                num_images=len(figure.graphics),
                has_gutters=any(image.has_gutters for image in images),
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
            source_md5=tuple(md5s),
            snapshot=self._snapshot,
        )
        if config.panels == "drop" and record.panel_score >= 0.5:
            raise Rejection("panels", "several-panels", f"score {record.panel_score:.1f}")
        for path, image in zip(paths, images, strict=True):
            write_image(config.output_dir / path, image.data)
        draft.count("images", len(images))
        made = [(record, images)]
        if config.panels == "split" and len(images) == 1:
            made += self._read_panels(record, images[0], number, draft)
        return [
            {
                "record": one.to_json(),
                "looks": [image.perceptual_hash for image in pictures],
                "inherited": figure.is_inherited,
            }
            for one, pictures in made
        ]

    def _read_panels(
        self, whole: FigureRecord, image: CleanImage, number: int, draft: _Draft
    ) -> list[tuple[FigureRecord, list[CleanImage]]]:
        """Return a record and picture for each panel, the pictures written."""
        made = []
        for panel, picture in iter_panel_records(
            whole,
            image,
            min_pixels=self._config.min_pixels,
            path_of=lambda part, extension: draft.image_path(number, part, extension),
        ):
            if self._config.modalities and panel.modality not in self._config.modalities:
                continue  # the whole, which passed, still holds it
            write_image(self._config.output_dir / panel.images[0], picture.data)
            made.append((panel, [picture]))
        draft.count("panels", len(made))
        draft.count("figures", len(made))
        draft.count("images", len(made))
        return made

    def _choose_caption(self, figure: Figure, facts: dict[str, Any]) -> tuple[str, str]:
        """Return language and text of the caption that is asked for, else the first choice."""
        wanted = [*self._config.languages, "en", facts["language"]]
        caption = first_caption(figure.captions, wanted)
        language = next((code for code, text in figure.captions if text == caption), UNKNOWN)
        return language, caption

    def _check_rights(self, figure: Figure, facts: dict[str, Any]) -> License:
        """Return the license of a figure: its own, if it has one, else the article's."""
        own = find_own_license(_all_captions(figure), figure.own)
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

    def _load_images(self, figure: Figure, draft: _Draft) -> Iterator[tuple[CleanImage, str]]:
        """Yield every image of a figure; one that fails fails the figure."""
        config = self._config
        for names in figure.graphics:
            name = match_image(names, draft.files.image_names)
            if name is None:
                raise Rejection("image", "image-missing", ", ".join(names))
            try:
                source = draft.files.load_image(name)
                draft.count("source_bytes", len(source.data))
                image = clean_image(source.data, max_pixels=config.max_pixels, name=name)
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


def _describe(
    article: Article, metadata: Metadata | None, license_: License, key: str
) -> dict[str, Any]:
    """Return the facts that every figure of an article carries."""
    known = metadata or Metadata(pmcid=article.pmcid or key, version=article.version or 1)
    return {
        "key": key,
        "pmcid": known.pmcid,
        "version": known.version,
        "pmid": known.pmid or article.pmid or None,
        "doi": known.doi or article.doi or None,
        "title": known.title or article.title,
        "citation": known.citation or article.citation,
        "license": license_.code,
        "license_url": license_.url,
        "license_basis": license_.basis,
        "language": article.language,
        "article_type": article.article_type,
        "journal": article.journal,
        "published": article.published,
        "keywords": list(article.keywords),
        "mesh": list(article.mesh),
        "is_retracted": known.is_retracted,
    }


def _failed(item: Item, reason: str, detail: str) -> Outcome:
    return Outcome(
        item=item.name,
        order=item.order,
        article={"key": item.name},
        figures=[],
        rejected=[
            {
                "key": item.name,
                "stage": "article",
                "reason": reason,
                "detail": detail[:300],
            }
        ],
        counts={"articles": 1},
    )


def _all_captions(figure: Figure) -> str:
    """Return the caption in all languages: what one says of rights holds for all."""
    return " ".join(text for _, text in figure.captions)


def _count_words(text: str) -> int:
    """Return the words of a caption; two characters of Chinese or Japanese count as one."""
    return len(_CJK.sub(" ", text).split()) + len(_CJK.findall(text)) // 2


def _anonymous_key(item: str) -> str:
    return f"file:{item}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
