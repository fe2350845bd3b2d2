"""Tests for grpo/page_templates.py."""

from pathlib import Path

import jinja2
import pytest

from cotree.grpo.page_templates import page_template


def test_what_is_filled_in_is_escaped_and_must_be_there(tmp_path: Path):
    path = tmp_path / "page.html.jinja"
    path.write_text("<p>{{ said }}</p>")
    assert page_template(path).render(said="<b>") == "<p>&lt;b&gt;</p>"
    with pytest.raises(jinja2.UndefinedError, match="said"):
        page_template(path).render()
