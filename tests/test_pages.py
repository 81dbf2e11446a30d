"""Pages keep what people wrote and get what scripts measured."""

from __future__ import annotations

import pytest

from experiments.pages import fill

PAGE = "words\n<!-- a: begin -->\nold\n<!-- a: end -->\nmore\n<!-- b: begin -->\n<!-- b: end -->\nlast\n"


def test_only_the_part_between_its_comments_is_replaced(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    for _ in range(2):
        fill(page, "a", "| new |")
        fill(page, "b", "\ntext\n\n")
    first, second = "<!-- a: begin -->\n\n| new |\n\n<!-- a: end -->", "<!-- b: begin -->\n\ntext\n\n<!-- b: end -->"
    assert page.read_text() == f"words\n{first}\nmore\n{second}\nlast\n"


@pytest.mark.parametrize("part", ["c", "a: begin --> <!-- b"])
def test_a_page_without_the_part_is_refused(tmp_path, part):
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    with pytest.raises(ValueError, match="has no part between"):
        fill(page, part, "text")
    assert page.read_text() == PAGE
