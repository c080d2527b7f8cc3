import os
import pty
from collections.abc import Iterator

import pytest

from gridwright_cli.up.outlet import Outlet

LINE = b"x" * 1023 + b"\n"


def notice(lines: int) -> bytes:
    return b"%d lost\n" % lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The end to read from, and the one to write to; tests may close either."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


@pytest.mark.parametrize("blocking", [True, False])
def test_what_was_written_is_there_in_order_after_the_end(pipe: tuple[int, int], blocking: bool) -> None:
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    outlet = Outlet(writer, notice)
    for number in range(1000):
        outlet.write(b"%d\n" % number)
    outlet.close(10)
    os.close(writer)
    assert read_all(reader) == b"".join(b"%d\n" % number for number in range(1000))


def test_a_reader_that_stands_still_delays_nobody_and_hears_what_it_missed(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = Outlet(writer, notice)
    for _ in range(3000):
        outlet.write(LINE)
    outlet.close(0.01)
    got = b""
    while b" lost\n" not in got:
        got += os.read(reader, 65536)
    shown, lost = got.count(LINE), int(got.rsplit(b"\n", 2)[-2].split()[0])
    assert 1000 < shown < 2000
    assert shown + lost == 3000
    outlet.close(10)


def test_a_pipe_whose_reader_is_gone_is_no_error(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    outlet = Outlet(writer, notice)
    outlet.write(LINE)
    outlet.write(LINE)
    outlet.close(10)


def test_a_terminal_that_is_gone_is_no_error() -> None:
    master, terminal = pty.openpty()
    os.close(master)
    with pytest.raises(OSError, match="Input/output error"):
        os.write(terminal, LINE)
    outlet = Outlet(terminal, notice)
    outlet.write(LINE)
    outlet.close(10)
    os.close(terminal)
