"""Progress bars on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

#: What leaves room for the numbers on 80 columns.
_BAR_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Report:
    """How far something has come."""

    what: str
    done: int
    #: None: nobody knows yet.
    total: int | None
    #: ``bytes``, or what else is counted.
    unit: str


#: Is told how far something has come, as often as one likes.
Show = Callable[[Report], None]


@contextmanager
def progress_shown() -> Iterator[Show]:
    """Give away a function that draws a bar, or does nothing where nobody would see it."""
    if not sys.stderr.isatty():
        yield _show_nothing
        return
    amount = _AmountColumn(table_column=Column(no_wrap=True))
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=_BAR_WIDTH), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars).show


class _Bars:
    """One bar for each thing that is reported on."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._shown: dict[str, Callable[[Report], None]] = {}

    def show(self, report: Report) -> None:
        if report.what not in self._shown:
            task = self._bars.add_task(report.what, total=report.total, unit=report.unit)
            self._shown[report.what] = lambda new: self._bars.update(task, completed=new.done, total=new.total)
        self._shown[report.what](report)


class _AmountColumn(ProgressColumn):
    """How much is done, in the unit of the task, and how fast it goes."""

    def render(self, task: Task) -> Text:
        if task.fields["unit"] != "bytes":
            of = "" if task.total is None else f" of {int(task.total):,}"
            return Text(f"{int(task.completed):,}{of} {task.fields['unit']}")
        of = "" if task.total is None else f" of {decimal(int(task.total))}"
        speed = task.finished_speed or task.speed
        return Text(f"{decimal(int(task.completed))}{of}" + (f", {decimal(int(speed))}/s" if speed else ""))


def _show_nothing(report: Report) -> None: ...
