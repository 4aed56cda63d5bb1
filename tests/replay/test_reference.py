"""The reference model's command, on traffic far too short for a model: everything but the training runs."""

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install 'tipstream[train]'")

from engines.train.dataset import read
from replay import reference
from replay.dataset import Written
from replay.reference import main
from tests.engines.train.made_up import FACTS, made_up, write

# Two processes compile the kernel and simulate: minutes on a busy machine.
pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]


def test_too_little_traffic_is_answered_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = tmp_path / "set", tmp_path / "model"
    size = ["--worlds", "2", "--hours", "0.25", "--rate", "32"]
    assert main([*size, "--shards", str(shards), "--out", str(out)]) == 2
    assert "Record or simulate more traffic." in capsys.readouterr().err
    facts, parts = read(shards)
    assert "seeds 11 to 12: 2 x 0.25 h at 32 events/s" in facts.source
    assert all(len(rows.weight) > 20 for rows in parts)
    assert not out.exists()


class NoTraffic:
    """Stands in for the processes that simulate, where the set is there already."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> "NoTraffic":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, _: object, worlds: list[object]) -> list[Written]:
        return [Written(1, 1, 1) for _ in worlds]


def test_the_folder_keeps_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = (*FACTS.columns[:-2], "viewer_age_first", "pair_age_first")  # as the recipe knows them
    write(tmp_path / "set", msgspec.structs.replace(FACTS, columns=named), made_up(6_000))
    monkeypatch.setattr(reference, "ProcessPoolExecutor", NoTraffic)
    assert main(["--worlds", "1", "--shards", str(tmp_path / "set"), "--out", str(tmp_path / "model")]) == 0
    kept = {path.name for path in (tmp_path / "model").iterdir()}
    assert kept == {"model.onnx", "manifest.json", "MODEL_CARD.md", "training.jsonl"}
    assert kept == {path.name for path in reference.FOLDER.iterdir()}
