"""Everything that a person may choose about a training run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engines.model import ModelError

_TIERS = {"low": 0.2, "mid": 0.05, "high": 0.01}


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Choices of one run; a TOML file may set any of them."""

    seed: int = 1
    tokens: int = 8
    """Width of a history token."""
    hidden: tuple[int, int] = (64, 32)
    """Widths of the two hidden layers."""
    epochs: int = 6
    """At most; training stops earlier once the validation period gets no better."""
    patience: int = 2
    """Epochs without a better validation loss before it stops."""
    batch: int = 2048
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    validation: float = 0.15
    """Share of the rows, after the training period, that training stops by."""
    test: float = 0.2
    """Share of the rows, last in time, that nothing but the model card sees."""
    tiers: dict[str, float] = msgspec.field(default_factory=lambda: dict(_TIERS))
    """Tier name -> share of the events of the validation period that score at or above it."""

    def __post_init__(self) -> None:
        """Refuse choices that no run can follow."""
        if not 0 < self.validation < 1 or not 0 < self.test < 1 or self.validation + self.test >= 1:
            raise ValueError("`validation` and `test` are shares of the rows and must leave some to train on")
        shares = list(self.tiers.values())
        if any(not 0 < share < 1 for share in shares) or shares != sorted(shares, reverse=True):
            raise ValueError("`tiers` must name falling shares of events between 0 and 1")


def read(path: Path) -> Recipe:
    """Read a recipe from a TOML file; raises ModelError in words."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (OSError, msgspec.DecodeError) as error:
        known = ", ".join(Recipe.__struct_fields__)
        raise ModelError(f"{path} is no recipe ({error}). It may set: {known}.") from error
