"""What the README says about other systems, as far as it can be seen on this one."""

import ast
import tomllib
from pathlib import Path

from medllava.cli.environment import _EXTRAS

ROOT = Path(__file__).parents[2]
UNIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_nothing_outside_training_needs_unix():
    needs = {
        path.relative_to(ROOT).as_posix(): sorted(imported(path) & UNIX_ONLY)
        for path in (ROOT / "medllava").rglob("*.py")
    }
    assert {path for path, names in needs.items() if names} == {"medllava/train/monitor.py"}


def test_env_knows_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = set(project["optional-dependencies"]) - {"all", "dev"}
    assert set(_EXTRAS) == declared
