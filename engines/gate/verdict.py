"""What the gate found: figures, the limits that they were held against, and whether the version may serve."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from engines import files
from engines.gate.limits import Limits
from engines.metrics import Bin
from engines.model import ModelError

VERDICT_FILE: Final = "verdict.json"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One demand."""

    name: str
    found: str
    """The figure, as a person reads it."""
    limit: str
    passed: bool


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """How well one model foresaw the tips of the recording, for the longest horizon."""

    name: str
    pr_auc: float
    auc: float
    recall_at_1pct: float
    mean_over_base: float
    """Mean probability over the share of events with a tip."""
    calibration_error: float
    reliability: tuple[Bin, ...]


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """What crossed one tier's threshold, as shares of all events."""

    tier: str
    at_least: float
    rose: float
    fell: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate's answers beside the FP32 reference's, over the rows of a recording."""

    rows: int
    events: float
    """Events that the rows stand for."""
    tips: int
    """Rows with a tip within the longest horizon."""
    reference: Ranking
    candidate: Ranking
    serving: Ranking | None
    """The version that serves, if it is of another model."""
    mean_shift: float
    """Mean probability over the reference's, less 1."""
    flips: tuple[Flip, ...]
    flipped: float
    """Share of events that get another tier."""
    max_change: float
    p99_change: float
    """Of |dp|, all horizons together."""
    falling: float
    """Share of rows whose probability falls along the horizons."""
    value_change: float
    """99th percentile of how far the expected amount is off, as a share of 1 + the reference's."""
    change_edges: tuple[float, ...]
    change_counts: tuple[int, ...]
    """Histogram of |dp| for the longest horizon."""


class Moves(msgspec.Struct, frozen=True, kw_only=True):
    """Largest |dp| of rows that were asked again in another place; 1 where no answer came."""

    slot: float
    """Another place in a batch of the same size."""
    neighbours: dict[str, float]
    """Beside rows of NaN, infinity and so on, by what the neighbours held."""
    padding: float
    """A batch that does not fill its bucket, after one of poisoned rows that did."""
    bucket: float
    """Another bucket."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one size, rows in, scores out."""

    size: int
    p50_us: float
    p99_us: float
    per_second: float
    """Scores, one batch after the other, or as many in flight as the engine takes."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One model's timings, taken in turns with the others'."""

    name: str
    timings: tuple[Timing, ...]


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """What scoring cost the GPU or CPU package, by its own counter, over windows of unbroken load."""

    counter: str
    size: int
    """Rows a batch."""
    windows: int
    seconds: float
    """Of each window."""
    idle_w: float
    busy_w: float
    per_second: float
    """Scores while under load."""
    joules_per_1000: float
    spread: float
    """Largest less smallest window, as a share of the mean."""
    grid_g_per_kwh: float
    """gCO2e a kWh, as stated by whoever ran the gate."""
    pue: float
    """Power of the data centre over that of its machines, likewise."""

    @property
    def marginal_joules_per_1000(self) -> float:
        """Above what the idle device takes anyway."""
        return max(self.busy_w - self.idle_w, 0.0) / self.per_second * 1000

    @property
    def grams_per_million(self) -> float:
        """GCO2e a million scores, under full load."""
        return self.joules_per_1000 * 1000 / 3.6e6 * self.pue * self.grid_g_per_kwh

    def watts_at(self, per_second: float) -> float:
        """Power at a rate of scores that the device is not filled by."""
        return self.idle_w + self.marginal_joules_per_1000 / 1000 * per_second


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's answer for one version; `verdict.json` in its folder."""

    subject: str
    """Model, precision and device in words."""
    files: dict[str, str]
    """SHA-256 of every file that decides how the version scores: the verdict holds for these bytes."""
    judged: str
    """ISO 8601, UTC."""
    machine: str
    traffic: str
    """One line: which recording."""
    against: str
    """The version that served, in words; empty if none did."""
    limits: Limits
    checks: tuple[Check, ...]
    accuracy: Accuracy
    moves: Moves
    speeds: tuple[Speed, ...]
    """The candidate's first."""
    energy: Energy | None
    energy_note: str
    """Why there is no energy figure; else empty."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that did not pass."""
        return tuple(check.name for check in self.checks if not check.passed)


def write_verdict(folder: Path, verdict: Verdict) -> None:
    """Put the verdict into the version's folder, in the place of an earlier one; raises ModelError."""
    try:
        files.replace(folder / VERDICT_FILE, msgspec.json.format(msgspec.json.encode(verdict)) + b"\n")
    except OSError as error:
        raise ModelError(files.why(folder, error)) from error


def read_verdict(folder: Path) -> Verdict | None:
    """Return the gate's latest verdict on a version, None if there is none; raises ModelError for a damaged one."""
    path = folder / VERDICT_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Verdict)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # no JSON, no UTF-8, or of another release
        raise ModelError(f"{path} cannot be read ({error}). Run `tipstream-engine verify` again.") from error
