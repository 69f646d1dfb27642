"""Compound figures are taken apart, and their captions with them."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medllava.pmc.figures import SURE_ENOUGH
from medllava.pmc.panel_captions import split_caption
from medllava.pmc.panels import find_panels, order_boxes, split_figure
from medllava.records import Modality


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """A dense picture: smooth structure with noise, gray levels between 40 and 210."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 190, (6, 6), dtype=np.uint8))
    values = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((values + rng.normal(0, 6, values.shape)).clip(40, 210).astype(np.uint8))


def compound(rows: int, columns: int, gutter: int, background: int = 255) -> Image.Image:
    canvas = Image.new("L", (columns * 200 - gutter, rows * 160 - gutter), background)
    for row in range(rows):
        for column in range(columns):
            picture = photograph((200 - gutter, 160 - gutter), seed=10 * row + column)
            canvas.paste(picture, (200 * column, 160 * row))
    return canvas


@pytest.mark.parametrize(
    ("caption", "lead", "parts"),
    [
        (
            "MRI of a patient. (A) Axial T2. (B) Sagittal T1, see (A).",
            "MRI of a patient.",
            {"A": "Axial T2.", "B": "Sagittal T1, see (A)."},
        ),
        ("CT (a) and MRI (b) of the knee.", "", {"a": "CT", "b": "MRI"}),
        ("Scans. a) Before. b) After.", "Scans.", {"a": "Before.", "b": "After."}),
        ("Views: A, frontal. B, lateral.", "Views", {"A": "frontal.", "B": "lateral."}),
        ("Two views. A, frontal. B, lateral.", "Two views.", {"A": "frontal.", "B": "lateral."}),
        (
            "Stains. (A\u2013C) H&E. (D) Trichrome.",
            "Stains.",
            {"A": "H&E.", "B": "H&E.", "C": "H&E.", "D": "Trichrome."},
        ),
        ("(A, B) CT. (C and D) MRI.", "", {"A": "CT.", "B": "CT.", "C": "MRI.", "D": "MRI."}),
        ("Knee. (i) Before. (ii) After.", "Knee.", {"i": "Before.", "ii": "After."}),
        ("Lungs. Left: before. Right: after.", "Lungs.", {"left": "before.", "right": "after."}),
        ("Panel A shows CT. Panel B shows MRI.", "", {"A": "shows CT.", "B": "shows MRI."}),
    ],
)
def test_a_caption_is_given_to_its_panels(caption, lead, parts):
    captions = split_caption(caption)
    assert captions.parts == parts
    if parts:
        assert captions.lead == lead


@pytest.mark.parametrize(
    "caption",
    [
        "Effect of vitamin (C) on tumor growth.",
        "Axial CT of the chest with a nodule (arrow) in the left lung.",
        "Grade (I) lesion.",
        "Hepatitis B, chronic. The patient was treated (see text).",
        "",
    ],
)
def test_what_is_no_series_of_marks_names_no_panels(caption):
    assert split_caption(caption).parts == {}


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (2, 2), (2, 3)])
@pytest.mark.parametrize("gutter", [4, 12])
@pytest.mark.parametrize("background", [255, 0])
def test_a_grid_is_found_with_and_without_a_number_in_the_caption(
    rows, columns, gutter, background
):
    picture = compound(rows, columns, gutter, background)
    for expected in (rows * columns, None):
        found = find_panels(picture, expected=expected)
        assert len(found.boxes) == rows * columns
        for index, box in enumerate(found.boxes):
            row, column = divmod(index, columns)
            wanted = (
                200 * column,
                160 * row,
                200 * column + 200 - gutter,
                160 * row + 160 - gutter,
            )
            assert np.abs(np.subtract(box, wanted)).max() <= 8


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        (
            "Mice after treatment. a Survival of the mice. b, c Sections of the lung. d Weights.",
            {
                "a": "Survival of the mice.",
                "b": "Sections of the lung.",
                "c": "Sections of the lung.",
                "d": "Weights.",
            },
        ),
        (
            "Heads of two species a E. dejeani, dark b E. dejeani, pale c E. minor, dark",
            {"a": "E. dejeani, dark", "b": "E. dejeani, pale", "c": "E. minor, dark"},
        ),
        ("A scan of a patient with hepatitis b and a cyst.", {}),
        ("A mouse. A Western blot of a lysate.", {}),
    ],
)
def test_letters_that_print_sets_in_bold_are_read(caption, parts):
    assert split_caption(caption).parts == parts


def test_one_picture_stays_whole():
    found = split_figure(photograph((400, 300), seed=3), "Axial CT of the chest.")
    assert [panel.caption for panel in found.panels] == ["Axial CT of the chest."]
    assert found.panels[0].box == (0, 0, 400, 300)


def test_a_chart_is_not_taken_apart_without_a_reason():
    chart = Image.new("L", (500, 400), 255)
    draw = ImageDraw.Draw(chart)
    draw.line((60, 20, 60, 340), fill=0, width=2)
    draw.line((60, 340, 380, 340), fill=0, width=2)
    draw.line((60, 300, 200, 120, 380, 60), fill=60, width=3)
    for y in range(40, 340, 60):
        draw.text((20, y), f"{y}", fill=0)
    draw.text((420, 100), "treated\n\ncontrol", fill=0)
    assert len(find_panels(chart).boxes) == 1


def test_letters_down_the_columns_are_read():
    letters = {(0, 0): "A", (1, 0): "B", (0, 1): "C", (1, 1): "D"}
    for by_columns in (False, True):
        picture = compound(2, 2, 8)
        draw = ImageDraw.Draw(picture)
        for row, column in letters:
            place = (column, row) if by_columns else (row, column)
            at = (200 * place[1] + 8, 160 * place[0] + 6)
            draw.text(at, letters[row, column], font=ImageFont.load_default(26), fill=255)
        # `letters` runs down the columns; with its axes exchanged it runs along the rows.
        found = split_figure(picture, "(A) one. (B) two. (C) three. (D) four.")
        places = {panel.label: (panel.box[0] > 100, panel.box[1] > 80) for panel in found.panels}
        assert places["B"] == ((True, False) if by_columns else (False, True))


def test_reading_order_of_a_tall_panel_beside_a_stack():
    tall, upper, lower = (0, 0, 100, 300), (110, 0, 200, 140), (110, 150, 200, 300)
    assert order_boxes([lower, tall, upper]) == [tall, upper, lower]


def mirror_of(folder, picture, caption):
    """A mirror of one article whose only figure is this picture."""
    from pmc_bucket import BucketArticle, article_objects

    objects = article_objects(BucketArticle(7, num_figures=1, caption=caption))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    name = next(key for key in objects if key.endswith(".png"))
    for key, data in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if key == name:
            data = buffer.getvalue()
        elif key.endswith(".json"):
            old, new = (hashlib.md5(d).hexdigest() for d in (objects[name], buffer.getvalue()))
            data = data.replace(old.encode(), new.encode())
        path.write_bytes(data)
    return folder


def test_fetch_pmc_splits_keeps_or_drops(tmp_path):
    """The whole stays and is linked; a panel has its own picture, words and modality."""
    import pyarrow.parquet as pq

    from medllava.pmc.config import FetchConfig
    from medllava.pmc.fetch import fetch_figures

    caption = "Imaging of one patient. (A) Axial CT of the chest. (B) Sagittal MRI of the spine."
    mirror = mirror_of(tmp_path / "mirror", compound(1, 2, 10), caption)

    def rows(panels):
        out = tmp_path / panels
        summary = fetch_figures(FetchConfig(output_dir=out, inputs=(mirror,), panels=panels))
        assert summary.complete
        return out, pq.read_table(out / "figures.parquet").to_pylist()

    _, kept = rows("keep")
    assert [row["panel"] for row in kept] == [""]
    _, dropped = rows("drop")
    assert dropped == []
    out, split = rows("split")
    assert [row["panel"] for row in split] == ["", "A", "B"]
    whole, first, second = split
    assert {first["whole_figure_id"], second["whole_figure_id"]} == {whole["figure_id"]}
    assert first["caption"] == "Imaging of one patient. Axial CT of the chest."
    assert (first["modality"], second["modality"]) == ("ct", "mri")
    for row in (first, second):
        left, top, right, bottom = row["panel_box"]
        with Image.open(out / row["images"][0]) as picture:
            assert picture.size == (right - left, bottom - top)


@pytest.mark.parametrize(
    ("caption", "settings", "left_out", "kept"),
    [
        (
            "A patient. (A) Axial CT of the chest. (B) Sagittal MRI. (C) CT again. (D) CT late.",
            {"modalities": (Modality.CT,)},
            {"B": "panel-modality"},
            ["", "A", "C", "D"],
        ),
        (
            "A patient. (A) one. (B) two. (C) three. (D) four.",
            {"min_pixels": 155},
            dict.fromkeys("ABCD", "panel-small"),
            [""],
        ),
    ],
)
def test_a_panel_that_is_left_out_is_named(tmp_path, caption, settings, left_out, kept):
    """The whole, which passed, is kept; the panel is named and counted."""
    import pyarrow.parquet as pq

    from medllava.pmc.config import FetchConfig
    from medllava.pmc.fetch import fetch_figures

    mirror = mirror_of(tmp_path / "mirror", compound(2, 2, 10), caption)
    out = tmp_path / "out"
    config = FetchConfig(output_dir=out, inputs=(mirror,), panels="split", **settings)
    summary = fetch_figures(config)
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert {row["key"].rpartition("/")[2]: row["reason"] for row in rejected} == left_out
    assert [row["panel"] for row in pq.read_table(out / "figures.parquet").to_pylist()] == kept
    assert summary.counts["rejected"] == len(left_out)
    assert summary.details["funnel"][-1]["out"] == summary.counts["kept"] == len(kept)


def test_a_figure_whose_named_panels_are_not_found_is_counted(tmp_path):
    from medllava.pmc.config import FetchConfig
    from medllava.pmc.fetch import fetch_figures

    caption = "Two views of one patient. (A) Axial CT of the chest. (B) The same later."
    mirror = mirror_of(tmp_path / "mirror", photograph((400, 300), seed=3), caption)
    config = FetchConfig(output_dir=tmp_path / "out", inputs=(mirror,), panels="split")
    summary = fetch_figures(config)
    assert (summary.counts["kept"], summary.counts["left_whole"]) == (1, 1)


def two_charts(letters: str) -> Image.Image:
    """Charts one above the other, joined by a line, so that no band parts them."""
    figure = Image.new("RGB", (600, 500), "white")
    pen = ImageDraw.Draw(figure)
    for top, letter in zip((0, 255), letters, strict=True):
        pen.text((4, top + 2), letter, font=ImageFont.load_default(26), fill="black")
        pen.rectangle((60, top + 34, 580, top + 190), outline="black", width=2)
        pen.line((70, top + 170, 570, top + 50), fill="black", width=3)
    pen.line((400, 190, 400, 289), fill="black", width=2)
    return figure


CHARTS = "Two trials. (A) Survival of mice. (B) Survival of rats."


def test_printed_letters_show_where_no_band_parts_two_charts():
    found = split_figure(two_charts("AB"), CHARTS)
    assert [panel.caption for panel in found.panels] == [
        "Two trials. Survival of mice.",
        "Two trials. Survival of rats.",
    ]
    assert found.confidence >= SURE_ENOUGH
    (_, _, _, bottom), (_, top, _, _) = (panel.box for panel in found.panels)
    assert 189 <= bottom <= top <= 266  # the letter begins there


def test_charts_without_the_letters_of_the_caption_stay_whole():
    assert split_figure(two_charts("  "), CHARTS).confidence < SURE_ENOUGH


@pytest.mark.parametrize(
    ("words", "axis"), [("Left, mice. Right, rats.", 0), ("Top: a. Bottom: b.", 1)]
)
def test_places_in_the_caption_say_along_which_axis_to_cut(words, axis):
    figure = Image.new("RGB", (600, 600), "white")
    pen = ImageDraw.Draw(figure)
    for left in (10, 320):
        for top in (10, 320):
            pen.rectangle((left, top, left + 260, top + 260), fill=(90, 90, 120))
    first, second = (panel.box for panel in split_figure(figure, words).panels)
    assert first[axis + 2] <= second[axis]
    assert first[3 - axis] > 560
