"""The ten commands of docs/your-own-data.md, as a reader would type them."""

import csv
import json
import random
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from medllava.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"

pytestmark = pytest.mark.timeout(500)


def draw_pictures(folder: Path, count: int) -> None:
    """Draw blood smears with one to four cells, four pictures a donor, and their table."""
    folder.mkdir(parents=True)
    chance = random.Random(0)
    with (folder / "table.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["file", "finding", "donor"])
        for number in range(count):
            cells = chance.randint(1, 4)
            picture = Image.new("RGB", (56, 56), (235, 215, 220))
            pen = ImageDraw.Draw(picture)
            for cell in range(cells):
                x, y = (14 + 28 * place + chance.randint(-3, 3) for place in (cell % 2, cell // 2))
                pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=(90, 40, 140))
            picture.save(folder / f"{number:03}.png")
            noun = "cells" if cells > 1 else "cell"
            text = f"Light micrograph of a blood smear with {cells} white blood {noun}."
            writer.writerow([f"{number:03}.png", text, f"d{number // 4}"])


def test_ten_commands_lead_from_a_table_to_a_chat(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line) for line in block.strip().splitlines()]
    assert len(commands) == 10
    draw_pictures(tmp_path / "pictures", 300)
    said = []
    for command in commands:
        assert command[0] == "medllava"
        done = CliRunner().invoke(app, command[1:])  # one process: ten would import torch each
        assert done.exit_code == 0, (command, done.stderr[-2000:])
        said.append(done.stdout)
    assert "data/train 90.0%" in " ".join(said[4].split())
    assert "How many cells" in said[5] or "cells" in said[5]
    report = json.loads((tmp_path / "runs/eval/report.json").read_text())
    assert {"permuted", "blank", "majority"} <= set(json.dumps(report).replace('"', " ").split())
    run = json.loads((tmp_path / "runs/stage2/run.json").read_text())
    assert [round(part["share"], 2) for part in run["data"]["mixture"]] == [0.9, 0.1]
    assert set(run["data"]["by_license"]) == {"own"}
    assert "own" in (tmp_path / "runs/push/README.md").read_text()
    trained = {
        json.loads(line)["images"][0]
        for line in (tmp_path / "data/train/instructions.jsonl").open()
    }
    tested = {
        json.loads(line)["images"][0] for line in (tmp_path / "data/test/instructions.jsonl").open()
    }
    donors = [{int(name[:3]) // 4 for name in names} for names in (trained, tested)]
    assert donors[0].isdisjoint(donors[1])
    assert len(trained) > 200
