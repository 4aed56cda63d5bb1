"""What happened in one case, when, and how it ended: told as JSON when it fails, as one line of a report when not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec

_FOLDER = Path(os.environ.get("FAULTS_FOLDER", ".faults"))


class Moment(msgspec.Struct):
    """One thing that was done or seen."""

    at_s: float
    what: str
    facts: dict[str, Any]


class History(msgspec.Struct):
    """A case from its start on."""

    case: str
    seed: int
    repeat: str
    """The command that does it again."""
    began: float
    """Unix time in seconds."""
    moments: list[Moment] = []
    measures: dict[str, float] = {}
    """Seconds, by what they measure."""
    verdict: dict[str, Any] = {}

    @classmethod
    def of(cls, case: str, seed: int) -> History:
        """Begin; `case` is the test's name, parameters included."""
        return cls(case, seed, f"make faults ONLY='{case}' SEED={seed}", time.time())

    def note(self, what: str, **facts: Any) -> None:
        """Add a moment."""
        self.moments.append(Moment(round(time.time() - self.began, 3), what, facts))

    def measure(self, what: str, seconds: float) -> None:
        """Keep a figure for the report."""
        self.measures[what] = round(seconds, 2)
        self.note(what, seconds=round(seconds, 2))

    def keep(self) -> Path:
        """Write all of it down."""
        _FOLDER.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in self.case)
        path = _FOLDER / f"{name}-{self.seed}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        return path

    def report(self) -> None:
        """Add a line about what held."""
        _FOLDER.mkdir(parents=True, exist_ok=True)
        line = {"case": self.case, "seed": self.seed, "took_s": round(time.time() - self.began, 1)}
        with (_FOLDER / "report.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(line | {"measures": self.measures, "verdict": self.verdict}) + b"\n")
