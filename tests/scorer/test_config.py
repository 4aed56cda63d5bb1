"""Configuration: every wrong setting is refused by name, and secrets stay secret."""

from __future__ import annotations

import tomllib
import traceback
from pathlib import Path

import pytest

from scorer import reference
from scorer.config import Config, ConfigError, Secret, load
from scorer.layers import keys, sections

ROOT = Path(__file__).parents[2]
SASL = {"TIPSTREAM_KAFKA__PROTOCOL": "SASL_SSL", "TIPSTREAM_KAFKA__USERNAME": "scorer"}


def written(folder: Path, text: str) -> Path:
    path = folder / "tipstream.toml"
    path.write_text(text)
    return path


def refusal(path: Path | None, variables: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, variables)
    return str(caught.value)


def test_defaults_need_nothing() -> None:
    assert load(None, {}) == Config()


def test_file_then_variables(tmp_path: Path) -> None:
    path = written(tmp_path, 'drain_s = 3\n[kafka]\ngroup = "a"\nbootstrap = "one:9092"\n[batching]\nmax_batch = 64\n')
    loaded = load(path, {"TIPSTREAM_KAFKA__GROUP": "b", "TIPSTREAM_LOG_LEVEL": "warning", "HOME": "/"})
    assert (loaded.kafka.group, loaded.kafka.bootstrap) == ("b", "one:9092")
    assert (loaded.batching.max_batch, loaded.drain_s, loaded.log_level) == (64, 3.0, "warning")


def test_a_variable_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[kafka]\ngroup = "a"\n')
    other = tmp_path / "other.toml"
    other.write_text('[kafka]\ngroup = "c"\n')
    assert load(None, {"TIPSTREAM_CONFIG": str(path)}).kafka.group == "a"
    assert load(other, {"TIPSTREAM_CONFIG": str(path)}).kafka.group == "c"


def test_variables_are_read_as_what_they_set() -> None:
    loaded = load(
        None,
        {
            "TIPSTREAM_REDIS__CLUSTER": "true",
            "TIPSTREAM_BATCHING__DEADLINE_MS": "40",
            "TIPSTREAM_BATCHING__SCORE_ON": "gift, comment",
            "TIPSTREAM_MODEL__PATH": "models/mine",
        },
    )
    assert loaded.redis.cluster is True
    assert loaded.batching.deadline_ms == 40
    assert loaded.batching.score_on == ("gift", "comment")
    assert loaded.model.path == Path("models/mine")
    assert load(None, {"TIPSTREAM_BATCHING__SCORE_ON": "all"}).batching.score_on == "all"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kafka]\ngrup = 'x'", ["kafka.grup", "tipstream.toml", "Did you mean kafka.group?"]),
        ("[kafak]\ngroup = 'x'", ["kafak", "Did you mean kafka?"]),
        ("drain = 3", ["Did you mean drain_s?"]),
        ("zzz = 3", ["docs/configuration.md"]),
        ("kafka = 3", ["kafka", "section", "[kafka]"]),
        ("[batching]\nmax_batch = '64'", ["batching.max_batch", "Expected `int`, got `str`"]),
        ("[batching]\nmax_batch = 4096", ["batching.max_batch", "<= 1024"]),
        ("[batching]\nscore_on = ['gitf']", ["batching.score_on", "gitf", "Did you mean gift?"]),
        ("[model]\npath = ''", ["model.path", "not empty"]),
        ("[kafka]\npassword = 'hunter2'", ["kafka.password_file", "TIPSTREAM_KAFKA__PASSWORD"]),
        ("[kafka]\nevents_topic = 'a b'", ["kafka.events_topic"]),
        ('[kafka]\ngroup = "a\\n"', ["kafka.group"]),
        ("[kafka]\nbootstrap = 'broker'", ["kafka.bootstrap", "host:port", "'broker'"]),
        ("[kafka]\nbootstrap = 'a:1,b:99999'", ["'b:99999'"]),
        ("[redis]\nurl = 'redis://[::1'", ["redis.url must read redis://host:port/db"]),
        ("[redis]\nurl = 'redis://h:99999/0'", ["redis.url must read redis://host:port/db"]),
        ("[redis]\nurl = 'redis://h:1/first'", ["redis.url must end with the number of a database"]),
        ("[redis]\nurl = 'rediss://h:1/0?ssl_cert_reqs=none'", ["redis.url", "how the connection is checked"]),
        ("a = " + "[" * 3_000, ["nest too deep"]),
        ("drain_s = " + "9" * 5_000, ["is not TOML"]),
        ("#" * 70_000, ["more than 65536 bytes"]),
        ("[kafka]\nevents_topic = 'a'\nscores_topic = 'a'", ["kafka.events_topic", "kafka.scores_topic"]),
        ("[redis]\nurl = 'http://x'", ["redis.url", "redis://"]),
        ("[redis]\nurl = 'redis://u:hunter2@x'", ["redis.url", "redis.password_file"]),
        ("[redis]\nurl = 'redis://x/3'\ncluster = true", ["redis.url", "database 0"]),
        ("[redis]\ncafile = 'ca.pem'", ["redis.cafile", "rediss://"]),
        ("[kafka]\nprotocol = 'SASL_SSL'", ["kafka.username", "kafka.password_file"]),
        ("[kafka]\nusername = 'x'", ["kafka.username", "SASL_SSL"]),
        ("[kafka]\ncafile = 'x'", ["kafka.cafile", "SSL"]),
        ("[kafka]\nprotocol = 'SSL'\ncertfile = 'x'", ["kafka.certfile", "kafka.keyfile"]),
        ("[kafka", ["not TOML"]),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(written(tmp_path, text), {})
    assert all(word in message for word in words), message
    assert "hunter2" not in message
    assert message.endswith((".", "?"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TIPSTREAM_KAFKA__BOOTSTRP", "x", ["TIPSTREAM_KAFKA__BOOTSTRP", "Did you mean TIPSTREAM_KAFKA__BOOTSTRAP?"]),
        ("TIPSTREAM_KAFKA_BOOTSTRAP", "x", ["Did you mean TIPSTREAM_KAFKA__BOOTSTRAP?"]),
        ("TIPSTREAM_BATCHING__MAX_BATCH", "many", ["TIPSTREAM_BATCHING__MAX_BATCH", "Expected `int`"]),
        ("TIPSTREAM_LOG_LEVEL", "loud", ["TIPSTREAM_LOG_LEVEL", "loud"]),
    ],
)
def test_a_wrong_variable_is_refused_in_words(name: str, value: str, words: list[str]) -> None:
    message = refusal(None, {name: value})
    assert all(word in message for word in words), message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "none.toml" in refusal(tmp_path / "none.toml", {})


def test_what_has_no_end_is_not_read_to_it() -> None:
    assert "more than" in refusal(Path("/dev/zero"), {})
    assert "more than" in refusal(None, {**SASL, "TIPSTREAM_KAFKA__PASSWORD_FILE": "/dev/zero"})


def test_secrets_come_from_files_or_variables_and_never_show(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    from_file = load(None, SASL | {"TIPSTREAM_KAFKA__PASSWORD_FILE": str(secret)})
    from_variable = load(None, SASL | {"TIPSTREAM_KAFKA__PASSWORD": "hunter2"})
    assert from_file.kafka.password == from_variable.kafka.password == Secret("hunter2")
    for loaded in (from_file, from_variable):
        assert loaded.kafka.password is not None
        assert loaded.kafka.password.reveal() == "hunter2"
        assert "hunter2" not in f"{loaded} {loaded!r} {loaded.kafka.password!s}"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_bad_password_file_is_refused(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content)
    named = SASL | {"TIPSTREAM_KAFKA__PASSWORD_FILE": str(secret)}
    assert "kafka.password_file" in refusal(None, named)
    assert "remove one" in refusal(None, named | {"TIPSTREAM_KAFKA__PASSWORD": "x"})
    secret.unlink()
    assert "kafka.password_file" in refusal(None, named)


def test_a_refused_secret_is_not_in_the_traceback() -> None:
    variables = SASL | {"TIPSTREAM_KAFKA__PASSWORD": "hunter2", "TIPSTREAM_REDIS__TIMEOUT_MS": "x"}
    with pytest.raises(ConfigError) as caught:
        load(None, variables)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_the_example_file_shows_every_default() -> None:
    path = ROOT / "deploy" / "tipstream.toml"
    assert load(path, {}) == Config()
    given = tomllib.loads(path.read_text())
    for section, kind in sections(Config).items():
        assert set(given[section]) == {key for key in keys(kind) if getattr(kind(), key) is not None}


@pytest.mark.parametrize("name", reference.documents())
def test_the_reference_is_current(name: str) -> None:
    committed = (reference.FOLDER / name).read_text("utf-8")
    assert committed == reference.documents()[name], "run: python -m scorer.reference"


def test_the_reference_names_every_setting() -> None:
    page = reference.documents()["configuration.md"]
    for section, kind in sections(Config).items():
        for key in keys(kind):
            assert f"`TIPSTREAM_{section.upper()}__{key.upper()}`" in page
