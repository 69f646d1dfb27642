"""Self-contained HTML pages: the look that every report of the project shares.

Values go in, one string comes out; nothing is loaded from elsewhere, and there is no script but on
pages of `render_script_page`. The HTML lies in `templates/`, where every text is escaped, so a
caption or a model's reply cannot inject markup: only what the functions here return is taken as it
stands. Charts are inline SVG.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_COLORS = ("var(--fill)", "var(--warm)", "#7a9e4b", "#8a6fb0")


def render_page(title: str, *, subtitle: str = "", sections: Iterable[tuple[str, str]]) -> str:
    """Return a complete HTML document.

    Args:
        title: plain text, also the window title.
        subtitle: plain text under the title.
        sections: (heading, content) in reading order; content is what the functions below return,
            any other string is shown as text.
    """
    template = _environment().get_template("page.html")
    return template.render(title=title, subtitle=subtitle, sections=sections)


def render_script_page(template: str, *, title: str, data: Any) -> str:  # noqa: ANN401 - JSON is any
    """Return a page that a script of its own draws from data that lies in it.

    Args:
        template: name of the file in `templates/`.
        title: plain text.
        data: anything JSON; the script reads it, nothing in it becomes markup.
    """
    # A "</script>" in the data would end it; JSON may write this sign as an escape.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return _environment().get_template(template).render(title=title, data=text)


def render_text(*paragraphs: str) -> Markup:
    """Return plain text as paragraphs."""
    return _render("text", paragraphs)


def render_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table; numbers are right-aligned, floats get four significant digits."""
    cells = [list(row) for row in rows]
    aligned = [
        bool(cells) and all(_is_number(row[column]) for row in cells)
        for column in range(len(headers))
    ]
    return _render("table", headers, [[_cell(value) for value in row] for row in cells], aligned)


def render_bars(
    values: Mapping[str, float], *, ranges: Mapping[str, tuple[float, float]] | None = None
) -> Markup:
    """Return a horizontal bar chart of non-negative values, one row per key, in the given order.

    Args:
        values: length of each bar.
        ranges: low and high end of the line drawn over a bar, for those that have an interval.
    """
    ranges = ranges or {}
    top = max([*values.values(), *(high for _, high in ranges.values())], default=0) or 1
    bars = []
    for name, value in values.items():
        ends = [200 + 320 * limit / top for limit in ranges.get(name, ())]
        bars.append(
            {
                "name": _short(name),
                "width": f"{320 * value / top:.1f}",
                "ends": [f"{end:.1f}" for end in ends],
                "value_x": f"{6 + max([200 + 320 * value / top, *ends]):.1f}",
                "value": _number(value),
            }
        )
    return _render("bars", bars, max(24 * len(bars), 1), _COLORS)


def render_lines(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str
) -> Markup:
    """Return a line chart of (x, y) points; at most four series, named in a legend."""
    points = [point for line in series.values() for point in line]
    if not points:
        return render_text("Nothing to draw yet.")
    (x0, x1), (y0, y1) = (_range([p[axis] for p in points]) for axis in (0, 1))

    def place(x: float, y: float) -> str:
        return f"{84 + 536 * (x - x0) / (x1 - x0):.1f},{230 - 210 * (y - y0) / (y1 - y0):.1f}"

    labels = (
        (_number(y1), 78, 28, "end"),
        (_number(y0), 78, 230, "end"),
        (_number(x0), 84, 248, "middle"),
        (_number(x1), 620, 248, "middle"),
        (x_label, 352, 248, "middle"),
        (y_label, 78, 128, "end"),
    )
    lines = [
        (_short(name), " ".join(place(x, y) for x, y in line)) for name, line in series.items()
    ]
    return _render("lines", lines, labels, _COLORS, f"{y_label} by {x_label}")


def render_cards(cards: Iterable[tuple[str | None, Sequence[str]]]) -> Markup:
    """Return a grid of cards: (image address or None, lines of text)."""
    return _render("cards", cards)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(macro: str, *values: Any) -> Markup:  # noqa: ANN401 - what the macro takes
    module: Any = _environment().get_template("parts.html").module
    return Markup(getattr(module, macro)(*values))  # noqa: S704 - escaped by the template


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    return str(value)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}..."


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
