"""One article from metadata to outcome: decide as early as possible, read as little as possible.

Metadata first (license, retraction), then the XML (type, license again), then each figure, which
`figures` judges. What is dropped on the way is written down with the stage and the reason.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from medllava.pmc.archive import ArticleFiles, Metadata, ObjectError, UnansweredError
from medllava.pmc.config import FetchConfig
from medllava.pmc.draft import Draft, Rejection
from medllava.pmc.figures import FigureReader
from medllava.pmc.jats import Article, read_article
from medllava.pmc.llava_urls import image_stem
from medllava.pmc.modality import ImageClassifier
from medllava.pmc.rights import License, combine, is_allowed
from medllava.pmc.state import Item, Outcome
from medllava.pmc.xml import XmlError


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
        self._figures = FigureReader(config, snapshot=snapshot, classifier=classifier)

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
        draft = Draft(files=files, gives_up=gives_up, key=item.name if metadata is not None else "")
        facts: dict[str, Any] = {}
        try:
            if metadata is not None:
                self._check_metadata(metadata)
            root = files.load_root()
            article = read_article(root, with_mentions=self._config.mentions)
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

    def _check_article(self, article: Article, metadata: Metadata | None, draft: Draft) -> License:
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

    def _read_figures(self, article: Article, facts: dict[str, Any], draft: Draft) -> None:
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
                draft.figures += self._figures.read(figure, figure_id, number, facts, draft)
            except Rejection as rejection:
                draft.reject(figure_id, rejection)


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


def _anonymous_key(item: str) -> str:
    return f"file:{item}"
