"""The command line teaches, does what it says, and refuses in sentences with status 2."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.events import decode
from replay import cli
from replay.recording import Record, Recording
from scorer.embedded.kafka import MockCluster
from tests.replay.importers.test_twitch_tape import tape


@pytest.fixture
def bootstrap() -> Iterator[str]:
    cluster = MockCluster({"live.events.v1": 3})
    yield cluster.bootstrap
    cluster.close()


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def records(path: Path) -> list[Record]:
    with Recording(path) as recording:
        return [record for batch in recording.batches() for record in batch]


@pytest.mark.parametrize(
    "command", [[], ["simulate"], ["import"], ["play"], ["record"], ["score"], ["report"], ["diff"]]
)
def test_help_teaches_by_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    told = capsys.readouterr().out
    assert re.search(r"examples?:\n  tipstream-replay ", told)


def test_help_tells_every_command_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    commands = "simulate", "import", "record", "play", "score", "report", "diff", "explain", "dataset"
    assert all(re.search(rf"\n  tipstream-replay {command} ", told) for command in commands)
    assert re.search(r"exit status: 0 .*; 1 .*; 2 ", told)


def test_simulate_writes_the_settings_beside_the_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.parquet"
    assert run("simulate", path, "--rate", 80, "--duration", "1m", "--seed", 9, "--truth") == 0
    made = records(path)
    assert len(made) == pytest.approx(80 * 60, rel=0.4)
    assert re.search(r"out\.parquet: [\d,]+ events", capsys.readouterr().out)
    with Recording(path) as recording:
        assert '"seed":9' in recording.metadata["traffic"]
    assert run("simulate", path, "--rate", 80, "--duration", "60", "--seed", 9, "--truth") == 0
    assert records(path) == made


def test_simulated_traffic_starts_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    assert run("simulate", path, "--rate", 80, "--duration", "2s", "--start", "2025-06-01T18:00Z", "--late", 0) == 0
    assert {record.timestamp_ms // 10_000 for record in records(path)} == {174_880_080}


def test_simulated_to_kafka_ends_now_and_is_stamped_when_due(bootstrap: str, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    assert run("simulate", "--kafka", bootstrap, "--rate", 50, "--duration", "60s", "--speed", 60) == 0
    now = time.time() * 1000
    assert run("record", path, "--bootstrap", bootstrap) == 0
    made = records(path)
    stamps = [record.timestamp_ms for record in made]
    assert max(stamps) - min(stamps) <= 1_100
    assert max(stamps) <= now
    happened = [record.event_time_ms or 0 for record in made]
    assert max(happened) <= now
    assert max(happened) - min(happened) > 40_000


def test_import_play_and_record(bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tape(tmp_path / "tape.parquet", {}, {"viewer_id": -2}, {"kind": "cheer", "amount": 100})
    imported, recorded = tmp_path / "imported.parquet", tmp_path / "recorded.parquet"
    assert run("import", "--format", "twitch-tape", source, imported) == 0
    assert "2 events from 3 rows" in capsys.readouterr().out
    assert run("play", imported, "--bootstrap", bootstrap, "--speed", "max", "--shift-ids", 2, "--loop", 2) == 0
    assert "8 records acknowledged" in capsys.readouterr().out
    assert run("record", recorded, "--bootstrap", bootstrap) == 0
    made = records(recorded)
    decoded = decode([record.value for record in made], [record.key for record in made])
    assert len({event.event_id for event in decoded.events}) == 8
    assert {event.viewer_id for event in decoded.events} == {"30", "30~1"}
    assert all(record.headers for record in made)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["simulate"], "Say where the traffic goes"),
        (["simulate", "x.parquet", "--kafka", "localhost:9"], "Say where the traffic goes"),
        (["simulate", "x.parquet", "--rate", "0"], "rate is 0.0"),
        (["simulate", "x.parquet", "--duration", "soon"], "'soon' is no duration"),
        (["simulate", "x.parquet", "--start", "soon"], "'soon' is no time"),
        (["simulate", "x.parquet", "--start", "1960-01-01"], "'1960-01-01' is before 1970"),
        (["simulate", "x.parquet", "--start", "0001-01-01T00:00+14:00"], "is before 1970"),
        (["simulate", "x.parquet", "--speed", "2"], "--speed is for traffic that goes to Kafka"),
        (["simulate", "x.parquet", "--topic", "t"], "--topic is for traffic that goes to Kafka"),
        (["simulate", "x.parquet", "--config", "c.toml"], "--config is for traffic that goes to Kafka"),
        (["simulate", "--kafka", "localhost:9", "--duration", "99999d", "--speed", "max"], "starts before 1970"),
        (["record", "x.parquet", "--since", "1960-01-01"], "'1960-01-01' is before 1970"),
        (["simulate", "x.parquet", "--rate", "inf"], "rate is inf"),
        (["simulate", "x.parquet", "--diurnal", "inf"], "diurnal is inf"),
        (["simulate", "missing/x.parquet"], "cannot be written"),
        (["simulate", "."], "it is a folder"),
        (["dataset", "missing.parquet", "set", "--partitions", "0"], "'0' is no whole number above 0"),
        (["dataset", "missing.parquet", "set", "--workers", "-1"], "'-1' is no whole number above 0"),
        (["dataset", "missing.parquet", "set", "--seed", "-1"], "'-1' is no whole number from 0 on"),
        (["score", "missing.parquet", "--out", "x.parquet", "--batch", "many"], "'many' is no whole number above 0"),
        (["play", "missing.parquet"], "There is no file missing.parquet"),
        (["play", "missing.parquet", "--speed", "0"], "'0' is no speed"),
        (["play", "missing.parquet", "--loop", "-1"], "--loop is 0 or more"),
        (["play", "missing.parquet", "--config", "missing.toml"], "missing.toml"),
        (["import", "--format", "twitch-tape", "missing.parquet", "x.parquet"], "There is no file missing.parquet"),
        (["score", "missing.parquet", "--out", "x.parquet"], "There is no file missing.parquet"),
        (["report", "missing.parquet", "--recording", "r.parquet"], "There is no file missing.parquet"),
        (["diff", "missing.parquet", "b.parquet"], "There is no file missing.parquet"),
        (["diff", "none", "b.parquet"], "say with --recording"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_kafka_that_does_not_answer_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("record", tmp_path / "x.parquet", "--bootstrap", "127.0.0.1:1") == 1
    assert "Check --bootstrap" in capsys.readouterr().err


def test_score_report_and_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, a, b = (tmp_path / name for name in ("made.parquet", "a.parquet", "b.parquet"))
    assert run("simulate", made, "--rate", 60, "--duration", "15m", "--viewers", 300, "--tips", 40) == 0
    assert run("score", made, "--model", "none", "--out", a) == 0
    assert re.search(r"a\.parquet: [\d,]+ scores of [\d,]+ records", capsys.readouterr().out)
    assert run("score", made, "--out", b, "--batch", 256) == 0
    assert run("report", b, "--recording", made, "--html", tmp_path / "report.html") == 0
    assert "PR-AUC" in capsys.readouterr().out
    assert run("diff", a, b, "--html", tmp_path / "diff.html") == 0
    assert run("diff", "none", b, "--recording", made) == 0
    told = capsys.readouterr().out
    assert "PR-AUC of B over that of A" in told
    assert "0 only in A, 0 only in B" in told
    kept = made.read_bytes()
    assert run("score", made, "--out", made) == 2
    assert "is the recording itself" in capsys.readouterr().err
    assert made.read_bytes() == kept
    assert "</html>" in (tmp_path / "report.html").read_text()
    assert "</html>" in (tmp_path / "diff.html").read_text()
