import io

import pytest

from gridwright_cli.up.log_lines import MAX_LINE_BYTES, LineSplitter, prefix, wants_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_put_together_from_pieces() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.feed(b"") == []
    assert splitter.feed(b"o\n\nthree") == [b"two", b""]
    assert splitter.rest() == [b"three"]
    assert splitter.rest() == []


def test_a_line_without_end_is_shown_in_pieces_and_not_kept() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"x" * (2 * MAX_LINE_BYTES + 1)) == [b"x" * MAX_LINE_BYTES] * 2
    assert splitter.rest() == [b"x"]


def test_names_are_aligned_and_coloured_on_request() -> None:
    assert prefix("cas", 34, width=6, coloured=False) == b"cas    | "
    assert prefix("cas", 34, width=6, coloured=True) == "\x1b[34mcas   \x1b[0m │ ".encode()


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_terminal_gets_colours_unless_its_user_wants_none(environ: dict[str, str], coloured: bool) -> None:
    assert wants_colour(Terminal(), environ) is coloured


def test_a_file_gets_no_colours() -> None:
    assert not wants_colour(io.StringIO(), {})
