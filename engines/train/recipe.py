"""Everything that a person may choose about a training run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec

from engines.model import ModelError

HISTORY: Final = "history"
"""What `without` calls the history."""
_DEEPEST: Final = 10  # a tree has 2**depth leaves
_LEVEL_LEFT: Final = 0.01  # of the way from even odds, where trees begin, to those of the rows
_TIERS: Final = {"low": 0.2, "mid": 0.05, "high": 0.01}


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Choices of one run; a TOML file may set any of them."""

    seed: int = 1
    without: tuple[str, ...] = ()
    """Inputs that the model is not to see: patterns of feature names such as `room_*`, or `history`."""
    network_without: tuple[str, ...] = ("viewer_age_first", "pair_age_first")
    """Inputs that only trees are to see. By default those that say how long ago recording began rather than anything
    about a viewer: they mislead the network once time has passed, and help the trees at the top."""
    pieces: int = 8
    """Stretches that a feature's range is cut into, at most; 0 for none."""
    tokens: int = 8
    """Width of a history token."""
    heads: int = 2
    """Views of the history."""
    members: int = 2
    """Networks side by side, whose mean logit counts."""
    hidden: tuple[int, int] = (64, 32)
    """Widths of each member's two hidden layers."""
    trees: int = 300
    """Boosted trees that have a say beside the members; 0 for none."""
    depth: int = 6
    """Questions that each of them asks."""
    trees_rate: float = 0.06
    """How much of what is left to explain each tree may explain."""
    trees_share: float = 0.5
    """Of what the logit is above that of `trees_above`."""
    trees_above: float = 4.0
    """Times the share of events that precede a tip, and a half at most: what is less likely is left to the network."""
    dropout: float = 0.2
    """Share of the hidden units that a training step leaves out."""
    input_dropout: float = 0.1
    """Share of the inputs that a training step leaves out."""
    epochs: int = 3
    """At most; training stops earlier once the validation period gets no better."""
    patience: int = 2
    """Epochs without a better validation loss before it stops."""
    batch: int = 4096
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
        if not (0 <= self.dropout < 1 and 0 <= self.input_dropout < 1):
            raise ValueError("`dropout` and `input_dropout` are shares, below 1")
        if min(self.tokens, self.heads, self.members, *self.hidden, self.epochs, self.batch) < 1:
            raise ValueError("`tokens`, `heads`, `members`, `hidden`, `epochs` and `batch` are at least 1")
        if min(self.pieces, self.trees) < 0 or not 1 <= self.depth <= _DEEPEST:
            raise ValueError(f"`pieces` and `trees` are at least 0, and `depth` is 1 to {_DEEPEST}")
        if not (0 <= self.trees_share < 1 and 0 < self.trees_rate <= 1):
            raise ValueError("`trees_share` is a share, below 1, and `trees_rate` above 0 and at most 1")
        if not 1e-3 <= self.trees_above < math.inf:
            raise ValueError("`trees_above` is a number of at least 0.001")
        if self.trees and (1 - self.trees_rate) ** self.trees > _LEVEL_LEFT:
            raise ValueError("so few `trees` at this `trees_rate` do not get as far as the level of the rows")
        shares = list(self.tiers.values())
        if any(not 0 < share < 1 for share in shares) or shares != sorted(shares, reverse=True):
            raise ValueError("`tiers` must name falling shares of events between 0 and 1")


def read(path: Path) -> Recipe:
    """Read a recipe from a TOML file; raises ModelError in words."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (OSError, ValueError) as error:  # no TOML, no UTF-8, or no such choice
        known = ", ".join(Recipe.__struct_fields__)
        raise ModelError(f"{path} is no recipe ({error}). It may set: {known}.") from error
