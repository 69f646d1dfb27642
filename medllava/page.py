"""Self-contained HTML pages: the look that every report of the project shares.

Strings go in, one string comes out; nothing is loaded from elsewhere, there is no script, and every
text is escaped here, so a caption or a model's reply cannot inject markup. Charts are inline SVG.
"""

import html
from collections.abc import Iterable, Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6876; --line: #d9dfe6; --fill: #2f6f8f;
  --paper: #fff; --wash: #f4f7f9; --warm: #c2703d }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa8b5; --line: #37424d;
  --paper: #14191f; --wash: #1c232b; --fill: #6fb3d2; --warm: #e09a6b } }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .25rem } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem }
p { max-width: 46rem } .soft { color: var(--soft) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top } td.number, th.number { text-align: right }
.cards { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) }
.card { background: var(--wash); border-radius: .4rem; padding: .75rem; overflow-wrap: anywhere }
.card img { display: block; margin: 0 auto; max-width: 100%; max-height: 16rem;
  border-radius: .25rem }
.card p { margin: .4rem 0 0; font-size: .9rem } svg text { fill: var(--soft); font-size: 12px }
@media (max-width: 44rem) { .scroll svg { max-width: 100%; height: auto }
  svg text { font-size: 20px } }
code { background: var(--wash); padding: .1rem .3rem; border-radius: .2rem }
"""

_COLORS = ("var(--fill)", "var(--warm)", "#7a9e4b", "#8a6fb0")


def render_page(title: str, *, subtitle: str = "", sections: Iterable[tuple[str, str]]) -> str:
    """Return a complete HTML document.

    Args:
        title: plain text, also the window title.
        subtitle: plain text under the title.
        sections: (heading, HTML made by the functions below) in reading order.
    """
    body = "".join(f"<h2>{html.escape(heading)}</h2>\n{content}\n" for heading, content in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="soft">{html.escape(subtitle)}</p>\n'
        f"{body}</body>\n</html>\n"
    )


def render_text(*paragraphs: str) -> str:
    """Return plain text as paragraphs."""
    return "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)


def render_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; numbers are right-aligned, floats get four significant digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(row[i][1] for row in cells) for i in range(len(headers))] if cells else []
    css = [' class="number"' if number else "" for number in numeric] or [""] * len(headers)
    head = "".join(f"<th{c}>{html.escape(h)}</th>" for h, c in zip(headers, css, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{t}</td>" for (t, _), c in zip(row, css, strict=True)) + "</tr>"
        for row in cells
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def render_bars(
    values: Mapping[str, float], *, ranges: Mapping[str, tuple[float, float]] | None = None
) -> str:
    """Return a horizontal bar chart of non-negative values, one row per key, in the given order.

    Args:
        values: length of each bar.
        ranges: low and high end of the line drawn over a bar, for those that have an interval.
    """
    ranges = ranges or {}
    top = max([*values.values(), *(high for _, high in ranges.values())], default=0) or 1
    rows = []
    for i, (name, value) in enumerate(values.items()):
        y, width = 24 * i, 320 * value / top
        rows.append(
            f'<text x="190" y="{y + 15}" text-anchor="end">{html.escape(_short(name))}</text>'
            f'<rect x="200" y="{y + 3}" width="{width:.1f}" height="16" rx="2" '
            f'fill="{_COLORS[0]}"/>'
        )
        end = width
        if name in ranges:
            low, high = (200 + 320 * limit / top for limit in ranges[name])
            end = max(width, high - 200)
            rows.append(
                f'<path d="M{low:.1f} {y + 11}H{high:.1f}M{low:.1f} {y + 7}v8M{high:.1f} {y + 7}v8"'
                f' stroke="{_COLORS[1]}" stroke-width="2" fill="none"/>'
            )
        rows.append(f'<text x="{206 + end:.1f}" y="{y + 15}">{_number(value)}</text>')
    return _svg(600, max(24 * len(values), 1), "".join(rows), label="bar chart")


def render_lines(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str
) -> str:
    """Return a line chart of (x, y) points; at most four series, named in a legend."""
    points = [point for line in series.values() for point in line]
    if not points:
        return render_text("Nothing to draw yet.")
    (x0, x1), (y0, y1) = (_range([p[axis] for p in points]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        return 60 + 560 * (x - x0) / (x1 - x0), 230 - 210 * (y - y0) / (y1 - y0)

    parts = ['<path d="M60 20V230H620" fill="none" stroke="var(--line)"/>']
    for i, (name, line) in enumerate(series.items()):
        color = _COLORS[i % len(_COLORS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<rect x="{70 + 140 * i}" y="4" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{84 + 140 * i}" y="13">{html.escape(_short(name))}</text>')
    for text, x, y, anchor in (
        (_number(y1), 54, 28, "end"),
        (_number(y0), 54, 230, "end"),
        (_number(x0), 60, 248, "middle"),
        (_number(x1), 620, 248, "middle"),
        (x_label, 340, 248, "middle"),
        (y_label, 54, 128, "end"),
    ):
        parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>')
    return _svg(650, 256, "".join(parts), label=f"{y_label} by {x_label}")


def render_cards(cards: Iterable[tuple[str | None, Sequence[str]]]) -> str:
    """Return a grid of cards: (image address or None, lines of text)."""
    rendered = []
    for source, lines in cards:
        image = f'<img src="{html.escape(source)}" alt="" loading="lazy">' if source else ""
        text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        rendered.append(f'<div class="card">{image}{text}</div>')
    return f'<div class="cards">{"".join(rendered)}</div>'


def _svg(width: int, height: int, content: str, *, label: str) -> str:
    return (
        f'<div class="scroll"><svg role="img" aria-label="{html.escape(label)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">{content}</svg></div>'
    )


def _cell(value: object) -> tuple[str, bool]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value), True
    return html.escape(str(value)), False


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}..."


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
