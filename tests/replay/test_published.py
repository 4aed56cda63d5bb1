"""A recording of the topic of scores stands in for a score file."""

from pathlib import Path

import msgspec
import pytest

from replay import cli
from replay.published import of_event, open_scores
from replay.recording import Record, Recording, RecordingError, Writer
from scorer.contracts import Score
from tests.replay.made_scores import T0
from tests.replay.made_scores import recording as tips_recording
from tests.replay.made_scores import scores as score_file
from tests.scorer.demo.made import START_MS, score


def message(made: Score, offset: int, partition: int = 0) -> Record:
    headers = [("src-off", offset.to_bytes(8, "big"))]
    return Record(made.viewer_id.encode(), msgspec.json.encode(made), partition, 7, headers, made.scored_time_ms, None)


def recorded(path: Path, records: list[Record]) -> Path:
    with Writer(path, source="topic scores") as writer:
        writer.write(records)
    return path


def made(i: int, p: float, tier: str, **fields: object) -> Score:
    one = score(i, p, f"v{i}", tier=tier)
    return msgspec.structs.replace(one, event_id=f"e{i}", latency_us={"wait": 2_000, "inference": 500}, **fields)


def test_it_reads_as_a_score_file(tmp_path: Path) -> None:
    messages = [message(made(0, 0.2, "high"), 5), message(made(1, 0.1, "none"), 6), message(made(2, 0.3, "high"), 9)]
    scores = open_scores(recorded(tmp_path / "s.parquet", messages))
    assert scores.about.model == "m:1"
    assert scores.about.horizons_s == (60, 600)
    assert [(tier.name, tier.at_least) for tier in scores.about.tiers] == [("none", 0), ("high", 0.2)]
    assert scores.text("event_id") == ["e0", "e1", "e2"]
    assert scores.text("tier") == ["high", "none", "high"]
    assert scores.column("p").tolist() == [0.2, 0.1, 0.3]
    assert scores.column("p_60").tolist() == [0.1, 0.05, 0.15]
    assert scores.column("offset").tolist() == [5, 6, 9]
    assert scores.column("event_time_ms").tolist() == [START_MS, START_MS + 1_000, START_MS + 2_000]
    assert scores.column("latency_us").tolist() == [2_500] * 3


def test_what_was_published_again_counts_once(tmp_path: Path) -> None:
    messages = [message(made(i, 0.1, "none"), i, i % 2) for i in range(6)]
    path = recorded(tmp_path / "s.parquet", [*messages, *messages[2:], message(made(6, 0.1, "none"), 6)])
    assert open_scores(path).text("event_id") == [f"e{i}" for i in range(7)]
    with Recording(path) as recording:
        assert [each.offset for each in of_event(recording, "e3")] == [3, 3]
        assert of_event(recording, "e33") == []


@pytest.mark.parametrize(
    ("written", "event_id"), [('"caf\\u00e9"', "café"), ('"caf\u00e9"', "café"), ('"a\\/b"', "a/b"), (r'"\"\\"', '"\\')]
)
def test_an_event_is_found_however_its_id_is_written(tmp_path: Path, written: str, event_id: str) -> None:
    one = message(made(0, 0.2, "high"), 5)
    value = (one.value or b"").replace(b'"e0"', written.encode())
    with Recording(
        recorded(tmp_path / "s", [message(made(1, 0.1, "none"), 4), one._replace(value=value)])
    ) as recording:
        assert [each.score.event_id for each in of_event(recording, event_id)] == [event_id]
        assert of_event(recording, "\udcff") == []  # as Python has what no UTF-8 a terminal gave


def test_what_is_no_score_is_refused_in_words(tmp_path: Path) -> None:
    good = message(made(0, 0.2, "high"), 5)
    for name, broken in (
        ("h", good._replace(headers=None)),
        ("n", good._replace(headers=[("src-off", None)])),  # type: ignore[list-item]  # as Kafka allows
        ("v", good._replace(value=b'{"event_id": "e"}')),
        ("u", good._replace(value=b'{"event_id": "\xff"}')),
    ):
        with pytest.raises(RecordingError, match=r"offset 7 of partition 0 is no score.*Record the topic"):
            open_scores(recorded(tmp_path / name, [good, broken]))
    other = message(made(1, 0.2, "high", p_tip={"60": 0.1}), 6)
    with pytest.raises(RecordingError, match="other horizons than 60, 600 s"):
        open_scores(recorded(tmp_path / "o", [good, other]))
    with pytest.raises(RecordingError, match="holds no scores"):
        open_scores(recorded(tmp_path / "e", []))


def test_report_and_diff_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = [i / 40 for i in range(30)]
    messages = [
        message(
            made(i, each, "high" if each >= 0.5 else "none", room_id=f"r{i // 10}", event_time_ms=T0 + i),
            i,
        )
        for i, each in enumerate(p)
    ]
    published = recorded(tmp_path / "published.parquet", messages)
    score_file(tmp_path / "file.parquet", p)
    events = tips_recording(tmp_path / "events.parquet", [25, 28])
    for arguments in (["report", published, "--recording", events], ["diff", tmp_path / "file.parquet", published]):
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        assert exit_.value.code == 0
    told = capsys.readouterr().out
    assert "30 events, 2 followed by a tip" in told
    assert "30 events in both, 0 only in A, 0 only in B" in told
