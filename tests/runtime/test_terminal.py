"""Strangers' texts in a terminal: neither markup nor commands to it, whatever stands beside them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.markup import render

from runtime.cli.terminal import plain

texts = st.text(st.sampled_from("[]\\/xb# \n") | st.characters(), max_size=12)


@given(texts, texts)
@example("[/x]", "\\[/x]")
@example("\\", "\\\\\\")
@example("[/", "]")
def test_a_strangers_text_opens_and_closes_no_tag(one, other):
    shown = render(f"[bold]{plain(one)}[/] by {plain(other)}{plain(one)}: {plain(other)}", emoji=False)
    (span,) = shown.spans
    assert (span.start, str(span.style)) == (0, "bold")
    assert shown.plain[span.end :].startswith(" by ")
    assert all(letter.isprintable() or letter == "\n" for letter in shown.plain)


@pytest.mark.parametrize("text", ["[/x]", "[bold]x[/]", "\\[/x]", "\\\\[x]", "a[0] = [A]", "[", "]", "[[x]]", "C1"])
def test_it_is_shown_as_it_is(text):
    assert render(plain(text), emoji=False).plain == text


def test_commands_to_the_terminal_are_spelled_out():
    assert render(plain("\x1b[2Jx\u202e"), emoji=False).plain == "\\x1b[2Jx\\x202e"
