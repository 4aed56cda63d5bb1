"""Tables on the terminal; in a file or pipe they are as wide as they need to be."""

from __future__ import annotations

from typing import Final

import rich
from rich.console import Console
from rich.table import Table

_PIPED_WIDTH: Final = 200


def show(table: Table) -> None:
    """Print a table."""
    console = rich.get_console()
    (console if console.is_terminal else Console(width=_PIPED_WIDTH)).print(table)
