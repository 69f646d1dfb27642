"""The page as one text: markup, style and scripts joined, so that it loads nothing."""

import json
import secrets
from collections.abc import Mapping
from importlib import resources
from typing import Any

_SCRIPTS = ("server.js", "markdown.js", "viewer.js", "talk.js", "files.js", "start.js")
"""In the order in which a reader follows them; they share one scope."""


def read_template() -> str:
    """Return the page's markup with style and scripts in place; facts and nonce are still open."""
    folder = resources.files("medllava.chat").joinpath("page")
    script = "\n".join(folder.joinpath(name).read_text("utf-8") for name in _SCRIPTS)
    markup = folder.joinpath("page.html").read_text("utf-8")
    style = folder.joinpath("page.css").read_text("utf-8")
    return markup.replace("{{style}}", style).replace("{{script}}", script)


def fill_page(template: str, facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return the page for one visit, and the policy that lets only its own scripts run."""
    nonce = secrets.token_urlsafe(16)
    # "<" escaped, so that no name can close the script element it stands in
    encoded = json.dumps(facts).replace("<", "\\u003c")
    html = template.replace("{{nonce}}", nonce).replace("{{facts}}", encoded)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return html, policy
