"""What is shown on the terminal: tables, as wide as they need to be in a file or pipe, and what is being done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import rich
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH: Final = 200


def add(table: Table, *cells: str | Text) -> None:
    """Add a row. Strings are shown as they are: a name or a reason may hold what rich would take for its markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def console() -> Console:
    """Return where tables are shown."""
    here = rich.get_console()
    return here if here.is_terminal else Console(width=_PIPED_WIDTH)


def show(table: Table) -> None:
    """Print a table."""
    console().print(table)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Show what is being done, in a line that goes away."""
    with rich.get_console().status("") as line:
        yield lambda doing: line.update(Text(doing))
