"""A folder of DICOM files: series put together, slices chosen, windows as channels."""

import json

import pytest
from dicom_files import write_slice
from PIL import Image
from pydicom.uid import generate_uid

from medllava.data.sources import image_root, iter_instruction_records
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.privacy.findings import PrivacyMode
from medllava.records import Stage


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    uid = generate_uid()
    for i in range(20):  # file names and numbers run against the heights
        write_slice(
            folder / "a" / f"{20 - i:02}.dcm",
            series=uid,
            patient="MRN-1",
            height=float(i),
            number=20 - i,
            hounsfield=i * 4,
        )
    write_slice(
        folder / "b" / "IM1",
        series=generate_uid(),
        patient="MRN-2",
        height=0,
        number=1,
        hounsfield=9,
    )
    (folder / "b" / "report.txt").write_text("A nodule in the lung.")
    torn = folder / "c.dcm"
    write_slice(torn, series=generate_uid(), patient="MRN-3", height=0, number=1, hounsfield=0)
    torn.write_bytes(torn.read_bytes()[:-60])
    return folder


def test_a_series_is_one_record_of_evenly_spaced_slices(study, tmp_path):
    out = tmp_path / "out"
    generate_instructions(
        GenerateConfig(
            figures=study,
            output_dir=out,
            stage=Stage.ALIGN,
            split=None,
            privacy=PrivacyMode.OFF,
        )
    )
    records = {len(r.images): r for r in iter_instruction_records(out)}
    series = records[8]
    assert series.turns[0].content.count("<image>") == 8
    assert series.turns[1].content == "CT scan of the chest, 20 slices."
    assert series.modality == "ct"
    assert series.license == "own"
    root = image_root(out, None)
    pixels = [Image.open(root / name).getpixel((0, 0)) for name in series.images]
    shades = [pixel[2] for pixel in pixels]  # the brain window, 0 to 80 units
    assert shades == sorted(shades)
    assert shades[0] < 5
    assert shades[-1] > 230
    assert pixels[-1][0] - pixels[0][0] < 15  # the same units through the wide window
    (facts,) = [
        f
        for f in map(json.loads, (out / "table" / "series.jsonl").open())
        if f["figure_id"] == series.record_id
    ]
    assert facts["chosen"] == [1, 4, 6, 9, 12, 15, 17, 20]
    assert facts["windows"] == [[0, 2048], [40, 350], [40, 80]]
    assert records[1].turns[1].content == "A nodule in the lung."
    (rejected,) = map(json.loads, (out / "rejected.jsonl").open())
    assert rejected["reason"] == "image_unreadable"
    written = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert b"MRN-" not in written
    assert b"Secret" not in written
