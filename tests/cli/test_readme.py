import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_readme_stays_short():
    assert len(README.splitlines()) < 200


def test_the_test_command_is_the_one_ci_runs():
    command = next(line for line in README.splitlines() if line.endswith("-m pytest"))
    create, install, run = command.strip().split(" && ")
    lines = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert lines.index(f"{create} && {install}") < lines.index(run)


def test_every_file_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_every_recipe_is_in_the_table():
    missing = [p.stem for p in (ROOT / "recipes").glob("*.toml") if f"`{p.stem}`" not in README]
    assert not missing


def test_the_changelog_has_an_unreleased_section():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
