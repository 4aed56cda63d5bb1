"""Rows to judge by: from a labelled set, or from a recording that the replay tool turns into one."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engines.gate.traffic import MOST_ROWS, Traffic, read_traffic, thin
from engines.model import ModelError
from tests.engines import small_models
from tests.engines.gate import made

MANIFEST = small_models.artifact().manifest


def test_a_labelled_set_is_read(tmp_path: Path) -> None:
    found = read_traffic(made.shards(tmp_path / "set"), MANIFEST)
    wanted = made.sample()
    np.testing.assert_array_equal(found.sample.features, wanted.features)
    np.testing.assert_array_equal(found.sample.history, wanted.history)
    np.testing.assert_array_equal(found.sample.tipped, wanted.tipped)
    assert found.source == f"drawn; 3,000 rows, {wanted.tipped.sum():,} with a tip"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": "ffff"}, "gives rows of feature catalogue ffff .* but the model takes 0123456789abcdef"),
        ({"n": 1_000}, "gives 1,000 rows, .* the gate needs 2,000 and 20. Record more traffic"),
    ],
)
def test_a_set_that_cannot_judge_this_model_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    folder = made.shards(tmp_path / "set", **change)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=words):
        read_traffic(folder, MANIFEST)


def test_other_horizons_are_refused(tmp_path: Path) -> None:
    folder = made.shards(tmp_path / "set")
    with pytest.raises(ModelError, match=r"foretells \(60, 900\) s"):
        read_traffic(folder, msgspec.structs.replace(MANIFEST, horizons_s=(60, 900)))


def test_a_folder_without_a_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no training set"):
        read_traffic(tmp_path, MANIFEST)


def recording(path: Path, rows: int = 10) -> Path:
    pq.write_table(pa.table({"value": [b"x"] * rows}), path)
    return path


REPLAY = """
import sys
from pathlib import Path
from tests.engines.gate import made
command, recording, folder, _, share, _, seed = sys.argv[1:]
assert (command, Path(recording).name, seed) == ("dataset", "day.parquet", "1")
print("halfway", flush=True)
made.shards(Path(folder))
print(share, file=sys.stderr)
"""


def replayed(tmp_path: Path, script: str, rows: int = 10) -> Traffic:
    said: list[str] = []
    found = read_traffic(
        recording(tmp_path / "day.parquet", rows), MANIFEST, progress=said.append, replay=(sys.executable, "-c", script)
    )
    assert "halfway" in said
    return found


def test_a_recording_is_made_into_rows_by_the_replay_tool(tmp_path: Path) -> None:
    found = replayed(tmp_path, REPLAY)
    np.testing.assert_array_equal(found.sample.features, made.sample().features)
    assert found.source.startswith("drawn; 3,000 rows")


def test_a_long_recording_is_sampled(tmp_path: Path) -> None:
    replayed(tmp_path, REPLAY.replace("made.shards", 'assert share == "0.5", share; made.shards'), rows=2 * MOST_ROWS)


def test_what_the_replay_tool_says_last_is_passed_on(tmp_path: Path) -> None:
    script = "import sys; print('halfway'); sys.exit('tipstream-replay: the recording is empty.')"
    with pytest.raises(ModelError, match=r"could not be made into rows: tipstream-replay: the recording is empty\."):
        replayed(tmp_path, script)


def test_a_recording_that_is_too_short_is_named(tmp_path: Path) -> None:
    script = REPLAY.replace("made.shards(Path(folder))", "Path(folder).mkdir()")
    with pytest.raises(ModelError, match=r"day\.parquet gives no rows: it covers the 600 s after none of its events"):
        replayed(tmp_path, script)


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    path = tmp_path / "day.parquet"
    with pytest.raises(ModelError, match="cannot be read as a recording"):
        read_traffic(path, MANIFEST)
    path.write_bytes(b"no Parquet")
    with pytest.raises(ModelError, match="cannot be read as a recording"):
        read_traffic(path, MANIFEST)


def test_thinning_keeps_every_tip_and_what_the_rows_stand_for() -> None:
    sample = made.sample()
    tips = int(sample.tipped.sum())
    found = thin(sample, tips + 500)
    assert len(found.weight) == tips + 500
    assert found.tipped.sum() == tips
    assert found.weight.sum() == pytest.approx(sample.weight.sum(), rel=1e-5)
    assert found.weight[found.tipped].sum() == sample.weight[sample.tipped].sum()
    rows = {row.tobytes() for row in sample.features}
    assert all(row.tobytes() in rows for row in found.features)
    assert thin(sample, 3_000) is sample
