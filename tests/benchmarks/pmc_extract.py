"""Figures, captions, image references and mentions of real articles, beside other extractors.

    python tests/benchmarks/pmc_extract.py ../shared/pmc-samples/xml

Peers that can be imported are run in the same process: pubmed_parser, pmc-toolkit, and lxml's bare
parse as the floor of time. Both serialisations are read: the files as they are, and the same turned
into the form of 2026 (ids `pmcid`, names with extension, `position` before `xlink:href`).

The truth is made without an XML parser, by regular expressions over the text of the file: a figure
is what stands between `<fig` and its `</fig>`; a caption is the text of its `<caption>` elements
with tags of blocks turned into spaces and all others into nothing; a mention is an `xref` naming
a figure's id, in a paragraph outside figures, tables, front matter and sub-articles, and, for
"Figs 1-3" with both ends tagged, each figure between. Captions are compared word by word after
compatibility normalisation, so that raised and lowered characters count as plain ones; formulas may
read in any way, the words around them may not. A mention is found if a tool puts the figure and the
paragraph's words together.
"""

import argparse
import html
import re
import tempfile
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from medllava.pmc.archive import match_image
from medllava.pmc.jats import read_article
from medllava.pmc.xml import iter_articles

BLOCK_TAG = re.compile(
    r"</?(?:p|title|list|list-item|def-list|def-item|def|term|sec|disp-formula|disp-quote|label"
    r"|break|boxed-text|caption|attrib)\b[^>]*>"
)
FORMULA = re.compile(
    r"<(inline-formula|disp-formula|alternatives|(?:mml:)?math)\b.*?</\1>", re.DOTALL
)
DROPPED = re.compile(
    r"<(graphic|inline-graphic|media|alt-text|long-desc|object-id|permissions|supplementary-material"
    r"|table-wrap)\b(?:[^>]*/>|.*?</\1>)",
    re.DOTALL,
)
PARAGRAPH = re.compile(
    r"<(?:p|title|td)\b[^>]*>(?:(?!<(?:p|title|td)\b).)*?</(?:p|title|td)>", re.DOTALL
)
HOLE = "\x00"
DASH = r"(?:[-\u2010-\u2015\u2212]|to|through)"


@dataclass
class Truth:
    captions: dict[str, str] = field(default_factory=dict)
    """By figure id; a hole stands where a formula is."""
    graphics: dict[str, list[str]] = field(default_factory=dict)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    """Figure id and letters of the paragraph."""


@dataclass
class Found:
    captions: dict[str, str] = field(default_factory=dict)
    graphics: dict[str, list[str]] = field(default_factory=dict)
    mentions: list[tuple[str, str]] = field(default_factory=list)


def spans(text: str, name: str) -> Iterator[tuple[int, int]]:
    """Places of the outermost elements of a name, by counting tags."""
    depth = start = 0
    for tag in re.finditer(rf"<(/?){name}(?=[\s>/])[^>]*?(/?)>", text):
        if tag[1]:
            depth -= 1
            if depth == 0:
                yield start, tag.end()
        elif not tag[2]:
            if depth == 0:
                start = tag.start()
            depth += 1


def plain(markup: str) -> str:
    markup = DROPPED.sub("", FORMULA.sub(HOLE, markup))
    text = html.unescape(re.sub(r"<[^>]+>", "", BLOCK_TAG.sub(" ", markup)))
    return " ".join(re.sub("[\u00ad\u200b-\u200d\u2060\ufeff]", "", text).split())


def words(text: str) -> str:
    """Text in which a raised, marked and plain character are the same."""
    text = unicodedata.normalize("NFKC", text.replace("\u2212", "-").replace("\u2013", "-"))
    text = re.sub(r"[\^_]\{([^{}]*)\}|[\^_](?=\S)", r"\1", text).replace("\u2212", "-")
    return " ".join(text.split())


def letters(text: str) -> str:
    return re.sub(r"[^A-Za-z]", "", unicodedata.normalize("NFKC", text))


def read_truth(data: bytes) -> Truth:
    text = re.sub(r"<!--.*?-->|<\?.*?\?>", "", data.decode("utf-8"), flags=re.DOTALL)
    truth = Truth()
    running = text
    places = list(spans(text, "fig"))
    order: list[str] = []
    for start, end in places:
        markup = text[start:end]
        ident = re.search(r'^<fig\b[^>]*?\bid="([^"]*)"', markup)
        name = ident[1] if ident else f"figure-{len(order) + 1}"
        order.append(name)
        own = re.sub(
            r"<supplementary-material\b.*?</supplementary-material>", "", markup, flags=re.S
        )
        captions = [own[a:b] for a, b in spans(own, "caption")]
        truth.captions[name] = " ".join(filter(None, map(plain, captions)))
        bare = markup
        for a, b in reversed(list(spans(markup, "caption"))):
            bare = bare[:a] + bare[b:]
        truth.graphics[name] = re.findall(r'<graphic\b[^>]*?\bxlink:href="([^"]+)"', bare)
    group_of = {}
    for start, end in spans(text, "fig-group"):
        ident = re.search(r'^<fig-group\b[^>]*?\bid="([^"]*)"', text[start:end])
        inside = [n for n, (a, b) in zip(order, places, strict=True) if start <= a < b <= end]
        group_caption = re.sub(r"<fig\b.*?</fig>", "", text[start:end], flags=re.DOTALL)
        shared = " ".join(plain(group_caption[a:b]) for a, b in spans(group_caption, "caption"))
        for name in inside:
            truth.captions[name] = truth.captions[name] or shared
        if ident:
            group_of[ident[1]] = inside
    for name in ("fig-group", "fig", "table-wrap", "sub-article", "response", "ref-list", "front"):
        for start, end in reversed(list(spans(running, name))):
            running = running[:start] + " " + running[end:]
    running = re.sub(r"<(supplementary-material|floats-group)\b.*?</\1>", " ", running, flags=re.S)
    positions = {name: n for n, name in enumerate(order)}
    for paragraph in PARAGRAPH.findall(running):
        xrefs = list(re.finditer(r"<xref\b([^>]*)>(.*?)</xref>", paragraph, re.S))
        before: tuple[int, int] | None = None
        for xref in xrefs:
            rid = re.search(r'\brid="([^"]*)"', xref[1])
            named = [n for r in (rid[1].split() if rid else []) for n in group_of.get(r, [r])]
            cited = [positions[n] for n in named if n in positions]
            if cited and before is not None:
                gap = plain(paragraph[before[1] : xref.start()])
                if re.fullmatch(rf"\s*{DASH}\s*", gap):
                    cited = [*range(before[0] + 1, cited[0]), *cited]
            truth.pairs |= {(order[n], letters(plain(paragraph))) for n in cited}
            before = (cited[-1], xref.end()) if cited else None
    return truth


def modernize(data: bytes) -> bytes:
    """The serialisation of 2026: names with extension, `position` first, new ids."""

    def graphic(tag: re.Match[str]) -> str:
        name = re.search(r'xlink:href="([^"]+)"', tag[0])
        if name is None:
            return tag[0]
        href = name[1] if re.search(r"\.(jpg|tif|gif|png)$", name[1]) else f"{name[1]}.jpg"
        rest = tag[0].replace(name[0], "", 1).removeprefix("<graphic")
        rest = re.sub(r'\s*position="[^"]*"', "", rest)
        end = "/>" if rest.rstrip().endswith("/>") else ">"
        rest = rest.rstrip().removesuffix(end).rstrip()
        return f'<graphic position="float"{rest} xlink:href="{href}"{end}'

    text = re.sub(r"<graphic\b[^>]*>", graphic, data.decode("utf-8"))
    return re.sub(
        r'<article-id pub-id-type="pmc">(?:PMC)?(\d+)</article-id>',
        r'<article-id pub-id-type="pmcid">PMC\1</article-id>'
        r'<article-id pub-id-type="pmcid-ver">PMC\1.1</article-id>',
        text,
    ).encode()


def ours(path: Path, *, with_mentions: bool = True) -> Found:
    found = Found()
    with path.open("rb") as stream:
        for root in iter_articles(stream):
            article = read_article(root, with_mentions=with_mentions)
            for number, figure in enumerate(article.figures, start=1):
                name = figure.xml_id or f"figure-{number}"
                found.captions[name] = figure.caption
                found.graphics[name] = [name for names in figure.graphics for name in names]
                found.mentions += [(name, sentence) for sentence in figure.mentions]
    return found


def ours_without_mentions(path: Path) -> Found:
    return ours(path, with_mentions=False)


def pubmed_parser_captions(path: Path) -> Found:
    import pubmed_parser

    found = Found()
    for figure in pubmed_parser.parse_pubmed_caption(str(path)) or []:
        found.captions[figure["fig_id"]] = figure["fig_caption"]
        found.graphics[figure["fig_id"]] = [figure["graphic_ref"]] if figure["graphic_ref"] else []
    return found


def pubmed_parser_all(path: Path) -> Found:
    """Captions, the article's metadata and its paragraphs, which takes it three parses."""
    import pubmed_parser

    pubmed_parser.parse_pubmed_xml(str(path))
    pubmed_parser.parse_pubmed_paragraph(str(path))
    return pubmed_parser_captions(path)


def pmc_toolkit(path: Path) -> Found:
    from pmc_toolkit.xml_parse_utils import extract_content, extract_figures, load_xml

    root = load_xml(path)
    found = Found()
    for number, figure in enumerate(extract_figures(root), start=1):
        name = figure.get("source_id") or f"figure-{number}"
        found.captions[name] = figure.get("caption", "")
        found.graphics[name] = [href for href in figure["graphics"] if href]

    def walk(section: dict) -> None:
        for paragraph in section.get("paragraphs", ()):
            found.mentions.extend((n, paragraph["text"]) for n in paragraph.get("figure_ids", ()))
        for inner in section.get("sections", ()):
            walk(inner)

    walk(extract_content(root))
    return found


def bare_parse(path: Path) -> Found:
    etree.parse(str(path))
    return Found()


def has_words(caption: str, truth: str) -> bool:
    parts = [re.escape(words(part)) for part in truth.split(HOLE)]
    return re.fullmatch(r"\s*.{0,2000}?\s*".join(parts), words(caption), re.DOTALL) is not None


def score(tool: Callable[[Path], Found], files: list[tuple[Path, Truth]]) -> dict[str, int]:
    counts = dict.fromkeys(("articles", "figures", "captions", "images", "graphics", "mentions"), 0)
    for path, truth in files:
        try:
            found = tool(path)
        except Exception:  # noqa: BLE001 - a peer may raise anything; the article counts as lost
            continue
        counts["articles"] += 1
        counts["figures"] += sum(name in found.captions for name in truth.captions)
        counts["captions"] += sum(
            has_words(found.captions.get(name) or "", caption)
            for name, caption in truth.captions.items()
            if caption
        )
        for name, graphics in truth.graphics.items():
            hits = [match_image((href,), tuple(graphics)) for href in found.graphics.get(name, ())]
            counts["images"] += bool(graphics) and graphics[0] in hits
            counts["graphics"] += len({hit for hit in hits if hit})
        by_figure: dict[str, list[str]] = {}
        for name, text in found.mentions:
            by_figure.setdefault(name, []).append(letters(text))
        counts["mentions"] += sum(
            any(
                text and (text in paragraph or paragraph in text)
                for text in by_figure.get(name, ())
            )
            for name, paragraph in truth.pairs
        )
    return counts


def measure(
    tools: dict[str, Callable[[Path], Found]], paths: list[Path], repeats: int
) -> dict[str, float]:
    """Best articles per second of CPU time, the tools taking turns so that noise hits all."""
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, tool in tools.items():
            started = time.process_time()
            for path in paths:
                try:
                    tool(path)
                except Exception:  # noqa: BLE001 - as in `score`
                    continue
            rate = len(paths) / (time.process_time() - started)
            best[name] = max(best.get(name, 0.0), rate)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--misses", action="store_true", help="print what ours gets wrong")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    tools: dict[str, Callable[[Path], Found]] = {
        "medllava": ours,
        "without mentions": ours_without_mentions,
    }
    for module, name, tool in (
        ("pubmed_parser", "pubmed_parser", pubmed_parser_captions),
        ("pubmed_parser", "pubmed_parser, all", pubmed_parser_all),
        ("pmc_toolkit", "pmc-toolkit", pmc_toolkit),
    ):
        try:
            __import__(module)
        except ImportError:
            print(f"{module} is not installed; left out")
        else:
            tools[name] = tool
    with tempfile.TemporaryDirectory() as scratch:
        sources = sorted(options.folder.glob("*.*ml"))
        for form in ("as found", "form of 2026"):
            files = []
            for source in sources:
                data = source.read_bytes() if form == "as found" else modernize(source.read_bytes())
                path = Path(scratch) / form[-4:] / source.name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
                files.append((path, read_truth(data)))
            truths = [truth for _, truth in files]
            total = {
                "articles": len(files),
                "figures": sum(len(t.captions) for t in truths),
                "captions": sum(bool(c) for t in truths for c in t.captions.values()),
                "images": sum(bool(g) for t in truths for g in t.graphics.values()),
                "graphics": sum(len(g) for t in truths for g in t.graphics.values()),
                "mentions": sum(len(t.pairs) for t in truths),
            }
            print(f"\n{form}\n{'':20s}" + "".join(f"{name:>10s}" for name in total))
            print(f"{'truth':20s}" + "".join(f"{count:10d}" for count in total.values()))
            for name, tool in tools.items():
                counts = score(tool, files)
                print(f"{name:20s}" + "".join(f"{count:10d}" for count in counts.values()))
            if options.misses:
                print_misses(files)
        paths = [path for path, _ in files]
        rates = measure({**tools, "lxml, bare parse": bare_parse}, paths, options.repeats)
    print("\narticles per second of one core, best of", options.repeats)
    for name, rate in rates.items():
        print(f"{name:20s}{rate:10.0f}   {rate / rates['lxml, bare parse']:.2f} of the bare parse")


def print_misses(files: list[tuple[Path, Truth]]) -> None:
    for path, truth in files:
        found = ours(path)
        for name, caption in truth.captions.items():
            if caption and not has_words(found.captions.get(name) or "", caption):
                print("CAPTION", path.name, name)
                print(" ", words(caption), "\n ", words(found.captions.get(name, "")))
        for name, graphics in truth.graphics.items():
            if sorted(graphics) != sorted(found.graphics.get(name, ())):
                print("GRAPHICS", path.name, name, graphics, found.graphics.get(name))
        for name, paragraph in truth.pairs:
            mine = [letters(t) for n, t in found.mentions if n == name]
            if not any(t in paragraph for t in mine):
                print("MENTION", path.name, name, paragraph[:200])


if __name__ == "__main__":
    main()
