"""What the gate demands, each limit with its reason. A TOML file may set others (`verify --limits FILE`)."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from engines.model import ModelError


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are the project's; a verdict records those that it was given by."""

    pr_auc_loss: Annotated[
        float,
        Meta(
            ge=0,
            description="Share of the reference's PR-AUC that may be lost. Both score the same rows, so chance has no "
            "part in it: rounding makes neighbours in the ranking change places, and nothing else.",
        ),
    ] = 0.005
    auc_loss: Annotated[
        float, Meta(ge=0, description="AUC that may be lost; one pair in two thousand may change places.")
    ] = 0.0005
    mean_shift: Annotated[
        float,
        Meta(
            ge=0,
            description="How far the mean probability may be from the reference's, as a share of it. Budgets are "
            "planned with sums of probabilities, in which rounding must cancel out.",
        ),
    ] = 0.005
    calibration_loss: Annotated[
        float,
        Meta(
            ge=0,
            description="How much the calibration error, relative to the base rate, may grow: an engine must not undo "
            "what the calibration in the graph does.",
        ),
    ] = 0.01
    flips: Annotated[
        float,
        Meta(
            ge=0,
            description="Share of events that may get another tier. A tier decides what a viewer is offered, and an "
            "event at a threshold may fall either way: two in a thousand do no harm.",
        ),
    ] = 0.002
    p99_change: Annotated[
        float, Meta(ge=0, description="99th percentile of |dp|: what rounding does to ordinary events.")
    ] = 0.001
    max_change: Annotated[
        float,
        Meta(
            ge=0,
            description="Largest |dp| of any event. TF32 and FP16 were seen to move extreme rows by 0.0005; 0.01 and "
            "more is not rounding but an overflow or a wrong kernel.",
        ),
    ] = 0.01
    falling: Annotated[
        float,
        Meta(
            ge=0,
            description="Share of rows whose probability may be lower for a longer horizon: readers of scores are "
            "promised none.",
        ),
    ] = 0.0
    moved: Annotated[
        float,
        Meta(
            ge=0,
            description="How far a row's p may depend on its slot in the batch, and on the rows beside it, NaN and "
            "infinity included. One kernel treats all slots alike, so the answer should be equal to the bit; a CPU's "
            "matrix product may round the last rows of a block otherwise. More means that rows leak into each other.",
        ),
    ] = 1e-6
    between_buckets: Annotated[
        float,
        Meta(
            ge=0,
            description="How far a row's p may depend on the bucket. Each bucket has kernels of its own that sum in "
            "another order and may round to TF32: 0.0005 was seen.",
        ),
    ] = 0.001
    p99_us: Annotated[
        float,
        Meta(
            gt=0,
            description="Slowest 99th percentile of a call up to 256 rows, in microseconds: the share of the 50 ms "
            "that inference has on a CPU.",
        ),
    ] = 4000.0
    p99_us_gpu: Annotated[float, Meta(gt=0, description="The same for an engine on a GPU.")] = 1000.0
    slower: Annotated[
        float,
        Meta(
            ge=1,
            description="How many times the serving version's 99th percentile a bucket may take: below this, two runs "
            "of one engine differ as much.",
        ),
    ] = 1.25
    faster: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="FP16 and INT8 must take at most this share of the time of the FP32 engine, as the geometric "
            "mean of the buckets' medians: precision is not given up for what is lost in noise.",
        ),
    ] = 0.97
    model_loss: Annotated[
        float,
        Meta(
            ge=0,
            description="Share of the serving model's PR-AUC, on the same recording, that a new model may lack. It "
            "need not be better on one recording, for chance moves PR-AUC by several percent; it must not be plainly "
            "worse.",
        ),
    ] = 0.05


def read_limits(path: Path) -> Limits:
    """Read limits from a TOML file; what it leaves out stays as it is. Raises ModelError."""
    names = ", ".join(Limits.__struct_fields__)
    try:
        limits = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Limits)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} holds no limits of the gate ({error}). It may set: {names}.") from error
    for name, value in msgspec.structs.asdict(limits).items():
        if not math.isfinite(value):  # the verdict is JSON, which has no such number
            raise ModelError(f"{path} sets {name} to {value}. For no limit to speak of, set 1e300.")
    return limits
