"""The house as a whole: no circle of imports, short ways for data, words with one spelling.

python tests/unit/test_house.py   # print what training and the other steps import, and circles
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("pmc.fetch", "instruct.generate", "train.run", "eval.run", "chat.session", "hub.push")
READS_BRITISH = {
    "normalize.py",
    "panel_captions.py",
    "panels.py",
    "licenses.py",
    "columns.py",
    "regions.py",
}
"""Files that look for British spelling in what others wrote, or hold captions."""
LONGEST_WAY = 14
"""Files that a newcomer opens to follow a record from one end of a step to the other."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "medllava").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports_of(name: str, *, everywhere: bool) -> frozenset[str]:
    """What a module imports of ours: at its top, or also inside functions."""
    tree = ast.parse(modules()[name].read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    return frozenset(target for node in nodes for target in _targets(node) if target in modules())


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in modules() else node.module
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)


def closure(name: str) -> set[str]:
    """Modules with code that importing `name` loads."""
    seen: set[str] = set()
    waiting = [f"medllava.{name}"]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imports_of(module, everywhere=False)
    return {module for module in seen if _has_code(module)}


def _has_code(module: str) -> bool:
    body = ast.parse(modules()[module].read_text()).body
    return any(not isinstance(node, ast.Expr) for node in body)


def circles() -> list[list[str]]:
    """Modules that import each other, deferred imports counted."""
    reach = {name: _reachable(name) for name in modules()}
    return sorted(
        {
            tuple(sorted(other for other in reach[name] if name in reach[other]))
            for name in reach
            if name in reach[name]
        }
    )


@cache
def _reachable(name: str) -> frozenset[str]:
    seen: set[str] = set()
    waiting = list(imports_of(name, everywhere=True))
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imports_of(module, everywhere=True)
    return frozenset(seen)


def ways() -> dict[str, list[str]]:
    """The files that CONTRIBUTING names for each way, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## A reading order")[2]
    text = text.partition("\n## ")[0]
    return {
        title: re.findall(r"^\d+\. `(medllava/[^`]+)`", body, re.MULTILINE)
        for title, body in re.findall(r"^### (.+?)\n(.+?)(?=^### |\Z)", text, re.M | re.S)
    }


def test_no_module_imports_itself_by_a_detour():
    assert circles() == []


@pytest.mark.parametrize("title", ["figure", "record", "question"])
def test_a_way_through_the_house_is_short_and_its_files_are_there(title):
    [files] = [files for name, files in ways().items() if title in name]
    assert 5 <= len(files) <= LONGEST_WAY
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_one_spelling():
    words = re.compile(
        r"\b(?:colour|normalis|standardis|quantis|licence|behaviour|neighbour|grey|centre)\w*", re.I
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for folder, pattern in (("medllava", "*.py"), ("docs", "*.md"), ("recipes", "*"))
        for path in sorted((ROOT / folder).rglob(pattern))
        if path.suffix in {".py", ".md", ".toml", ".sh"} and path.name not in READS_BRITISH
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for match in words.finditer(line)
    ]
    assert found == []


if __name__ == "__main__":
    for step in STEPS:
        print(f"medllava.{step:<20} {len(closure(step)):>3} files")
    print("circles:", circles() or "none")
    sys.exit(bool(circles()))
