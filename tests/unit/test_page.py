from medllava import page


def test_text_cannot_inject_markup():
    evil = "<script>alert(1)</script>"
    html = page.render_page(
        evil,
        subtitle=evil,
        sections=[
            (evil, page.render_text(evil)),
            ("t", page.render_table([evil], [[evil]])),
            ("b", page.render_bars({evil: 1.0})),
            ("l", page.render_lines({evil: [(0, 1), (1, 2)]}, x_label=evil, y_label=evil)),
            ("c", page.render_cards([(f'"{evil}', [evil])])),
        ],
    )
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_numbers_are_aligned_right_and_words_left():
    html = page.render_table(["name", "count"], [["a", 1234], ["b", 5]])
    assert '<td class="number">1,234</td>' in html
    assert "<td>a</td>" in html


def test_a_flat_line_and_an_empty_chart_are_drawn():
    flat = page.render_lines({"loss": [(1, 2.0), (2, 2.0)]}, x_label="step", y_label="loss")
    assert "polyline" in flat
    assert "Nothing to draw" in page.render_lines({}, x_label="x", y_label="y")


def test_what_no_part_of_a_page_made_is_shown_as_text():
    assert "&lt;b&gt;" in page.render_page("t", sections=[("s", "<b>")])
    assert "<p>" in page.render_page("t", sections=[("s", page.render_text("a"))])
