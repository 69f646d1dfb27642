"""What the gate finds in tags, words and pixels, and what it leaves alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medllava.privacy.captions import find_in_text, mask_text
from medllava.privacy.findings import Kind
from medllava.privacy.pixels import TextFinder, _tells_something, _tiles, has_reader, paint_over
from medllava.privacy.tags import find_in_tags

pydicom = pytest.importorskip("pydicom")
from pydicom.data import get_testdata_file  # noqa: E402

needs_reader = pytest.mark.skipif(not has_reader(), reason="the extra ocr is not installed")


@pytest.fixture(scope="module")
def finder() -> TextFinder:
    return TextFinder()


def dicom(tmp_path: Path, **elements: object) -> Path:
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    for element in list(dataset):
        if element.keyword.startswith(("Patient", "Study", "Series", "Acqui", "Content", "Instit")):
            del dataset[element.tag]
    for keyword in ("AccessionNumber", "ReferringPhysicianName", "ImageComments", "StationName"):
        if keyword in dataset:
            del dataset[keyword]
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    path = tmp_path / "file"
    dataset.save_as(path)
    return path


def tags(path: Path) -> set[str]:
    return {finding.where for finding in find_in_tags(path)}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "Lindqvist^Maren"),
        ("PatientID", "00412345"),
        ("PatientBirthDate", "19610203"),
        ("OtherPatientNames", "Maren"),
        ("PatientAddress", "Long Lane 3"),
        ("ReferringPhysicianName", "Okafor^Chidi"),
        ("InstitutionName", "Ward Nine"),
        ("StudyDate", "20240101"),
        ("ImageComments", "seen with Maren"),
    ],
)
def test_a_filled_tag_of_the_basic_profile_is_named_and_not_quoted(
    keyword: str, value: str, tmp_path: Path
):
    clean = tags(dicom(tmp_path))
    findings = find_in_tags(dicom(tmp_path, **{keyword: value}))
    assert {finding.where for finding in findings} - clean == {keyword}
    assert value not in str(findings)


def test_names_inside_sequences_and_private_groups_are_found(tmp_path: Path):
    inner = pydicom.Dataset()
    inner.PerformingPhysicianName = "Okafor^Chidi"
    path = dicom(tmp_path, RequestAttributesSequence=[inner])
    assert "PerformingPhysicianName" in tags(path)
    dataset = pydicom.dcmread(dicom(tmp_path))
    block = dataset.private_block(0x0099, "MAKER", create=True)
    block.add_new(1, "PN", "Lindqvist^Maren")
    dataset.save_as(tmp_path / "private")
    assert any(name.startswith("(0099") for name in tags(tmp_path / "private"))


def test_dummies_are_allowed_where_the_file_says_its_identity_is_removed(tmp_path: Path):
    path = dicom(tmp_path, PatientName="A^1", PatientIdentityRemoved="YES", PatientAddress="Lane 3")
    assert "PatientName" not in tags(path)
    assert "PatientAddress" in tags(path)


def test_a_file_that_admits_an_annotation_is_found(tmp_path: Path):
    found = find_in_tags(dicom(tmp_path, BurnedInAnnotation="YES"))
    assert Kind.BURNED_IN in {finding.kind for finding in found}


def test_other_kinds_of_files_have_no_tags(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert find_in_tags(tmp_path / "a.png") == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Seen on 2019-03-12 in clinic.", Kind.DATE),
        ("Seen on 12/03/2019.", Kind.DATE),
        ("born 3 February 1961", Kind.DATE),
        ("Feb 3rd, 1961 follow-up", Kind.DATE),
        ("MRN: 00412345 shows effusion", Kind.NUMBER),
        ("accession number 4412-99812", Kind.NUMBER),
        ("id 123456789", Kind.NUMBER),
        ("Mrs. Lindqvist had a fall", Kind.NAME),
        ("LINDQVIST^MAREN chest", Kind.NAME),
        ("Patient: Maren Lindqvist, cough", Kind.NAME),
        ("write to maren@mail.example.org", Kind.CONTACT),
        ("call (555) 123-4567", Kind.CONTACT),
    ],
)
def test_a_caption_that_tells_who_is_found_and_masked(text: str, kind: Kind):
    findings = find_in_text(text)
    assert [finding.kind for finding in findings] == [kind]
    masked = mask_text(text, findings)
    assert "[removed]" in masked
    assert find_in_text(masked) == []


@pytest.mark.parametrize(
    "text",
    [
        "Axial CT of the chest, 5 mm slices, 120 kVp.",
        "Hematoxylin and eosin, original magnification x400.",
        "Ratios were 1.5-2.0 (95 % CI 1.1-3.2; P < 0.001) in 1,200,000 cells.",
        "Type II pneumocytes (A, B) in stage T2N0M0.",
        "The patient is a 54-year-old man with dyspnea.",
        "Patients: n = 34; controls: n = 30.",
    ],
)
def test_plain_captions_are_left_alone(text: str):
    assert find_in_text(text) == []


def test_what_every_scanner_prints_tells_nothing():
    for text in ("L", "R", "5 cm", "120 kV", "PORTABLE", "10 mm", "Left", "AP", "MLO"):
        assert not _tells_something(text), text
    for text in ("LINDQVIST", "1961-02-03", "00412345", "Maren L, 5 cm"):
        assert _tells_something(text), text


def test_tiles_cover_a_large_picture():
    covered = np.zeros((4000, 3500), dtype=bool)
    for left, top in _tiles((3500, 4000)):
        covered[top : top + 1600, left : left + 1600] = True
    assert covered.all()
    assert _tiles((500, 400)) == [(0, 0)]


def labeled(words: str, at: tuple[int, int] = (30, 40), size: int = 18) -> Image.Image:
    image = Image.effect_noise((400, 300), 20).convert("RGB")
    ImageDraw.Draw(image).text(at, words, fill="white", font=ImageFont.load_default(size))
    return image


@needs_reader
def test_text_burned_into_pixels_is_found_where_it_is_and_painted_over(finder: TextFinder):
    image = labeled("LINDQVIST^MAREN 1961-02-03")
    findings = finder.find(image)
    assert findings
    assert all(finding.kind is Kind.TEXT for finding in findings)
    assert any(f.box[0] <= 40 and f.box[1] <= 50 for f in findings if f.box)
    assert "LINDQVIST" not in str(findings)
    painted = paint_over(image, findings)
    assert finder.find(painted) == []
    assert np.array_equal(np.asarray(painted)[200:], np.asarray(image)[200:])


@needs_reader
def test_a_picture_without_text_and_one_with_a_side_are_clean(finder: TextFinder):
    assert finder.find(Image.effect_noise((400, 300), 20).convert("RGB")) == []
    assert finder.find(labeled("R", size=28)) == []
