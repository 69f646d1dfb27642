"""What somebody strikes is left out by the next run and by every reader, and is told."""

import json
from pathlib import Path

import pytest

from medllava.data.dropped import Dropped, DropReason, unusable_share
from medllava.data.sources import iter_instruction_records, read_instructions
from medllava.errors import RecordError
from medllava.instruct.browse import MOST_RECORDS, BrowseRecords
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.records import InstructionRecord, Stage, Turn
from medllava.store import iter_jsonl, read_json


def page_data(page: Path) -> dict:
    start = page.read_text().split('<script type="application/json" id="data">')[1]
    return json.loads(start.split("</script>")[0])


@pytest.fixture
def made(make_figure, figures_dir, tmp_path):
    planes = ("axial", "sagittal", "coronal")
    figures = figures_dir(
        *(make_figure(i, caption=f"{planes[i % 3]} MRI of the brain") for i in range(9))
    )
    config = GenerateConfig(
        figures=figures,
        output_dir=tmp_path / "out",
        stage=Stage.INSTRUCT,
        questions_per_figure=2,
    )
    generate_instructions(config)
    return config


def ids(folder: Path) -> list[str]:
    return [record.record_id for record in iter_instruction_records(folder)]


def strike(folder: Path, *record_ids: str) -> None:
    lines = [json.dumps({"record_id": record_id}) + "\n" for record_id in record_ids]
    (folder / "struck.jsonl").write_text("".join(lines))


def test_readers_and_the_next_run_leave_out_what_is_struck(made):
    out = made.output_dir
    before = ids(out)
    gone = [before[1], before[5]]
    strike(out, *gone)
    kept = [record_id for record_id in before if record_id not in gone]
    assert ids(out) == kept
    read = list(read_instructions(out))
    dropped = [record for record in read if isinstance(record, Dropped)]
    assert [(d.record_id, d.reason, d.item) for d in dropped] == [
        (gone[0], DropReason.STRUCK, 2),
        (gone[1], DropReason.STRUCK, 6),
    ]
    summary = generate_instructions(made)
    assert ids(out) == kept
    assert [q["id"] for _, q in iter_jsonl(out / "questions.jsonl")] == kept
    assert summary.details["rejected_by_reason"] == {"struck": 2}
    told = [row for _, row in iter_jsonl(out / "rejected.jsonl")]
    assert [row["record_id"] for row in told] == gone
    assert read_json(out / "summary.json")["counts"]["records"] == len(kept)
    assert page_data(out / "browse.html")["struck"] == sorted(gone)
    strike(out)
    generate_instructions(made)
    assert ids(out) == before


def test_a_strike_that_names_nothing_is_an_error_with_its_line(made):
    (made.output_dir / "struck.jsonl").write_text('{"record_id": "a"}\n{"id": "b"}\n')
    with pytest.raises(RecordError, match=r"struck\.jsonl, line 2"):
        list(read_instructions(made.output_dir))


def test_what_is_struck_is_no_unusable_record():
    counts = {DropReason.STRUCK.value: 50, DropReason.MISSING_IMAGE.value: 5}
    assert unusable_share(counts, used=45) == 0.1
    assert unusable_share({}, used=0) == 0.0


def record(number: int, score: float | None, text: str = "A.") -> InstructionRecord:
    return InstructionRecord(
        record_id=f"r{number}",
        images=(f"images/{number}.png",),
        turns=(Turn(role="user", content="<image>\nQ?"), Turn(role="assistant", content=text)),
        stage=Stage.INSTRUCT,
        provenance={} if score is None else {"grounded": score},
    )


def test_the_page_shows_the_least_borne_out_first_and_few_of_many():
    records = BrowseRecords(seed=0)
    for number in range(MOST_RECORDS + 500):
        records.add(record(number, score=(number * 7 % 1000) / 1000))
    shown = records.records()
    assert len(shown) == MOST_RECORDS
    assert records.total == MOST_RECORDS + 500
    scores = [r.provenance["grounded"] for r in shown]
    assert scores == sorted(scores)
    assert scores[0] == 0.0
    assert scores[-1] < 0.85


def test_words_of_a_record_cannot_become_markup(made, make_figure, figures_dir, tmp_path):
    caption = "</script><script>document.title='gone'</script> & <b>axial</b> MRI"
    figures = figures_dir(make_figure(1, caption=caption))
    out = tmp_path / "align"
    generate_instructions(GenerateConfig(figures=figures, output_dir=out, stage=Stage.ALIGN))
    text = (out / "browse.html").read_text()
    assert text.count("<script") == 2
    (shown,) = page_data(out / "browse.html")["records"]
    assert shown["turns"][1] == ["assistant", caption]
    assert shown["images"] == ["../figures/images/1.png"]
