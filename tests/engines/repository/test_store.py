"""The repository: what may serve, what is refused, and what is kept."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest

from engines.folder import ENGINE_FILES, MODEL_FILES
from engines.gate.verdict import VERDICT_FILE
from engines.manifest import MANIFEST_FILE, ONNX_FILE, Artifact
from engines.model import ModelError
from engines.repository.keys import TRUSTED_FILE, generate
from engines.repository.store import Repository
from engines.tensorrt.plan import FACTS_FILE, PLAN_FILE, Engine, Settings
from tests.engines import small_engines, small_models
from tests.engines.repository.shop import Shop

FEATURES = small_models.FINGERPRINT


def test_models_and_engines_are_promoted_and_opened_alike(shop: Shop) -> None:
    model, engine = shop.model(passed=True), shop.engine(passed=True)
    assert shop.repository.promote(model, shop.key).serving == model
    opened = shop.repository.open(model, features=FEATURES)
    assert isinstance(opened, Artifact)
    pointer = shop.repository.promote(engine, shop.key, reason="faster")
    assert (pointer.serving, pointer.previous) == (engine, model)
    assert shop.repository.pointer() == pointer
    found = shop.repository.open(engine, features=FEATURES)
    assert isinstance(found, Engine)
    assert found.plan == b"a plan"
    pointer = shop.repository.rollback("slower after all")
    assert (pointer.serving, pointer.previous) == (model, engine)
    assert [change.reason for change in pointer.changes] == ["", "faster", "slower after all"]


def test_what_the_gate_did_not_pass_is_not_promoted(shop: Shop) -> None:
    unjudged, failed = shop.model(), shop.model(passed=False)
    with pytest.raises(ModelError, match=f"{unjudged} has not been through the gate. Run `tipstream-engine verify"):
        shop.repository.promote(unjudged, shop.key)
    with pytest.raises(ModelError, match=f"{failed} did not pass the gate: the other"):
        shop.repository.promote(failed, shop.key)
    assert shop.repository.pointer().serving is None


def test_a_verdict_on_other_bytes_does_not_count(shop: Shop) -> None:
    version = shop.engine(passed=True)
    (shop.repository.folder(version) / PLAN_FILE).write_bytes(b"another plan")
    with pytest.raises(ModelError, match="The gate judged other bytes"):
        shop.repository.promote(version, shop.key)


def test_no_force_makes_a_version_serve_that_cannot_be_read(shop: Shop) -> None:
    model, engine = shop.model(), shop.engine()
    for version, name in ((model, ONNX_FILE), (engine, PLAN_FILE)):
        (shop.repository.folder(version) / name).write_bytes(b"other bytes")
        with pytest.raises(ModelError, match=rf"{name} has SHA-256|its files are another version's"):
            shop.repository.promote(version, shop.key, force="in a hurry")
        assert not shop.repository.sealed(version)


def test_no_force_makes_a_version_serve_that_nothing_can_load(shop: Shop) -> None:
    hashed = hashlib.sha256(b"garbage").hexdigest()
    manifest = msgspec.structs.replace(small_models.artifact().manifest, sha256=hashed)
    version = shop.repository.add(small_models.write(shop.folder / "garbage", Artifact(manifest, b"garbage")))
    with pytest.raises(ModelError, match="ONNX Runtime"):
        shop.repository.promote(version, shop.key, force="in a hurry")
    assert shop.repository.pointer().serving is None


@pytest.mark.parametrize("kind", ["model", "engine"])
def test_a_forged_verdict_does_not_get_changed_files_signed(shop: Shop, kind: str) -> None:
    version = shop.model(passed=True) if kind == "model" else shop.engine(passed=True)
    shop.repository.sign(version, shop.key)
    folder = shop.repository.folder(version)
    if kind == "model":
        manifest = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=dict[str, object])
        (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest | {"name": "another"}))
    else:
        forged = small_engines.write(shop.folder / "forged", Settings(buckets=(1, 9)), plan=b"evil")
        for name in (PLAN_FILE, FACTS_FILE):
            (folder / name).write_bytes((forged / name).read_bytes())
    small_engines.judged(folder)
    with pytest.raises(ModelError, match=r"was changed after it was signed|its files are another version's"):
        shop.repository.promote(version, shop.key)
    assert shop.repository.pointer().serving is None


def test_a_renamed_folder_is_not_signed_anew(shop: Shop) -> None:
    version = shop.model(passed=True)
    shop.repository.folder(version).rename(shop.repository.folder("a" * 16))
    with pytest.raises(ModelError, match=f"holds version {version}"):
        shop.repository.promote("a" * 16, shop.key)


def test_force_needs_a_reason_and_keeps_it(shop: Shop) -> None:
    version = shop.model(passed=False)
    pointer = shop.repository.promote(version, shop.key, force="the other one is on fire")
    assert pointer.changes[-1].reason == "the other one is on fire"
    seal = shop.repository.seal(version)
    assert (seal.forced, seal.gate) == ("the other one is on fire", "")
    passed = shop.model(passed=True)
    shop.repository.promote(passed, shop.key, force="needless")
    assert shop.repository.seal(passed).forced == ""  # the gate had passed it


def test_a_verdict_that_came_after_the_seal_counts(shop: Shop) -> None:
    version, other = shop.model(passed=True), shop.model(passed=True)
    shop.repository.sign(version, shop.key)
    shop.repository.promote(other, shop.key)
    small_engines.judged(shop.repository.folder(version), passed=False)
    with pytest.raises(ModelError, match="did not pass the gate"):
        shop.repository.promote(version, shop.key)


def test_a_signed_version_is_promoted_where_there_is_no_signing_key(shop: Shop, tmp_path: Path) -> None:
    version = shop.engine(passed=True)
    shop.repository.sign(version, shop.key)
    there = Repository(tmp_path / "elsewhere", tmp_path / "keys" / TRUSTED_FILE)
    assert there.add(shop.repository.folder(version)) == version
    assert there.promote(version).serving == version
    assert isinstance(there.open(version, features=FEATURES), Engine)
    unsigned = there.add(shop.repository.folder(shop.model(passed=True)))
    with pytest.raises(ModelError, match="is not signed"):
        there.promote(unsigned)
    assert there.pointer().serving == version


def test_what_was_forced_where_the_key_is_may_serve_where_it_is_not(shop: Shop, tmp_path: Path) -> None:
    version = shop.model(passed=False)
    shop.repository.sign(version, shop.key, force="a hotfix")
    there = Repository(tmp_path / "elsewhere", tmp_path / "keys" / TRUSTED_FILE)
    there.add(shop.repository.folder(version))
    assert there.promote(version).serving == version
    assert there.seal(version).forced == "a hotfix"


def test_a_verdict_and_a_seal_that_came_later_are_taken_over(shop: Shop, tmp_path: Path) -> None:
    version = shop.model()
    origin = shop.repository.folder(version)
    there = Repository(tmp_path / "elsewhere", tmp_path / "keys" / TRUSTED_FILE)
    there.add(origin)
    small_engines.judged(origin)
    shop.repository.sign(version, shop.key)
    assert there.add(origin) == version
    assert there.promote(version).serving == version
    assert there.version(version).verdict == shop.repository.version(version).verdict
    kept = there.seal(version)
    Repository(shop.repository.root).sign(version, generate(tmp_path / "stranger"))
    there.add(origin)
    assert there.seal(version) == kept, "one that is there is not replaced"


def test_a_stranger_s_signature_is_refused(shop: Shop, tmp_path: Path) -> None:
    version, signed = shop.model(passed=True), shop.model(passed=True)
    stranger = generate(tmp_path / "stranger")
    kept = shop.repository.sign(signed, shop.key)
    with pytest.raises(ModelError, match=f"Key {stranger.id} is not trusted here: .* Add that, or sign with a key"):
        shop.repository.promote(version, stranger)
    with pytest.raises(ModelError, match=f"Key {stranger.id} is not trusted here"):
        shop.repository.sign(signed, stranger, force="a test")
    assert shop.repository.pointer().serving is None
    assert not shop.repository.sealed(version)
    assert shop.repository.seal(signed) == kept
    Repository(shop.repository.root).sign(version, stranger)
    with pytest.raises(ModelError, match=f"signed by key {stranger.id}, which is not trusted here"):
        shop.repository.promote(version)
    with pytest.raises(ModelError, match="No keys are trusted here"):
        Repository(shop.repository.root).open(version, features=FEATURES)


@pytest.mark.parametrize("name", ENGINE_FILES)
def test_no_file_of_a_signed_engine_can_be_changed(shop: Shop, name: str) -> None:
    version = shop.engine(passed=True)
    shop.repository.promote(version, shop.key)
    path = shop.repository.folder(version) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name} has SHA-256 .* it was changed after it was signed"):
        shop.repository.open(version, features=FEATURES)


def test_a_plan_with_its_own_hash_put_right_is_refused_all_the_same(shop: Shop) -> None:
    version = shop.engine(passed=True)
    shop.repository.promote(version, shop.key)
    folder = shop.repository.folder(version)
    forged = small_engines.write(shop.folder / "forged", Settings(buckets=(1, 9)), plan=b"evil")
    for name in (PLAN_FILE, FACTS_FILE):
        (folder / name).write_bytes((forged / name).read_bytes())
    with pytest.raises(ModelError, match="it was changed after it was signed"):
        shop.repository.open(version, features=FEATURES)


def test_an_engine_cannot_be_turned_into_its_model(shop: Shop) -> None:
    version = shop.engine(passed=True)
    shop.repository.promote(version, shop.key)
    (shop.repository.folder(version) / FACTS_FILE).unlink()
    with pytest.raises(ModelError, match="There is no TensorRT engine in"):
        shop.repository.open(version, features=FEATURES)


def test_a_signed_folder_under_another_name_is_refused(shop: Shop) -> None:
    old, new = shop.model(passed=True), shop.model(passed=True)
    for version in (old, new):
        shop.repository.promote(version, shop.key)
    shop.repository.folder(new).rename(shop.folder / "away")
    shop.repository.folder(old).rename(shop.repository.folder(new))
    with pytest.raises(ModelError, match=f"is that of version {old}, not {new}"):
        shop.repository.open(new, features=FEATURES)
    with pytest.raises(ModelError, match=f"Version {old} is not in"):
        shop.repository.open(old, features=FEATURES)


@pytest.mark.parametrize("kind", ["model", "engine"])
def test_other_features_are_refused_in_words(shop: Shop, kind: str) -> None:
    version = getattr(shop, kind)(passed=True)
    shop.repository.promote(version, shop.key)
    with pytest.raises(ModelError, match="trained on feature catalogue 0123456789abcdef, but this build computes ffff"):
        shop.repository.open(version, features="ffff")


def test_promoting_what_serves_and_going_back_to_nothing_are_refused(shop: Shop) -> None:
    version = shop.model(passed=True)
    with pytest.raises(ModelError, match="no previous version"):
        shop.repository.rollback()
    shop.repository.promote(version, shop.key)
    with pytest.raises(ModelError, match="serves already"):
        shop.repository.promote(version, shop.key)
    with pytest.raises(ModelError, match="no previous version"):
        shop.repository.rollback()


def test_nobody_goes_back_to_a_version_whose_seal_is_gone(shop: Shop) -> None:
    first, second = shop.model(passed=True), shop.model(passed=True)
    for version in (first, second):
        shop.repository.promote(version, shop.key)
    (shop.repository.folder(first) / "seal").unlink()
    with pytest.raises(ModelError, match="is not signed"):
        shop.repository.rollback()
    assert shop.repository.pointer().serving == second


def test_nobody_goes_back_to_a_version_that_is_gone(shop: Shop) -> None:
    first, second = shop.model(passed=True), shop.model(passed=True)
    for version in (first, second):
        shop.repository.promote(version, shop.key)
    shutil.rmtree(shop.repository.folder(first))
    with pytest.raises(ModelError, match=f"Version {first} is not in "):
        shop.repository.rollback()
    assert shop.repository.pointer().serving == second


def test_nobody_goes_back_to_a_version_that_was_changed(shop: Shop) -> None:
    first, second = shop.model(passed=True), shop.model(passed=True)
    for version in (first, second):
        shop.repository.promote(version, shop.key)
    (shop.repository.folder(first) / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=f"Version {first} was changed after it was signed"):
        shop.repository.rollback()
    assert shop.repository.pointer().serving == second


def test_versions_are_found_by_the_beginning_of_their_id_by_role_and_by_folder(shop: Shop) -> None:
    first, second = shop.model(passed=True), shop.model(passed=True)
    repository = shop.repository
    with pytest.raises(ModelError, match="has no serving version yet"):
        repository.find("serving")
    for version in (first, second):
        repository.promote(version, shop.key)
    assert repository.find(first[:6]) == first
    assert (repository.find("serving"), repository.find("previous")) == (second, first)
    assert repository.find(str(repository.folder(first))) == first
    with pytest.raises(ModelError, match=r"No version in .* begins with 'zz'"):
        repository.find("zz")
    with pytest.raises(ModelError, match=r"2 versions in .* begin with ''"):
        repository.find("")


def test_adding_again_changes_nothing_and_another_build_is_refused(shop: Shop) -> None:
    version = shop.engine()
    settings = Settings(buckets=(1, 8 + shop._made))
    again = small_engines.write(shop.folder / "again", settings)
    assert shop.repository.add(again) == version
    other = small_engines.write(shop.folder / "other", settings, plan=b"built a second time")
    with pytest.raises(ModelError, match="is another build"):
        shop.repository.add(other)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_folder_that_lacks_a_file_is_not_brought_in(shop: Shop, name: str) -> None:
    source = small_models.write(shop.folder / "m", small_models.artifact())
    (source / name).unlink()
    with pytest.raises(ModelError, match=f"There is no whole model or engine in .*{name}"):
        shop.repository.add(source)
    assert not list(shop.repository.root.glob("*")) if shop.repository.root.exists() else True


def test_clearing_away_keeps_what_serves_what_served_and_the_latest(shop: Shop) -> None:
    versions = [shop.model(passed=True) for _ in range(5)]
    shop.repository.promote(versions[0], shop.key)
    shop.repository.promote(versions[1], shop.key)
    (shop.repository.root / ".new-0123").mkdir()
    (shop.repository.root / ".0123.new-ab").mkdir()
    assert [each.id for each in shop.repository.collect(keep=1, remove=False)] == [versions[3], versions[2]]
    assert len(shop.repository.versions()) == 5
    shop.repository.collect(keep=1)
    assert {each.id for each in shop.repository.versions()} == {versions[0], versions[1], versions[4]}
    left = {path.name for path in shop.repository.root.iterdir()}
    assert left == {versions[0], versions[1], versions[4], "pointer.json", ".lock", ".0123.lock"}


def test_what_cannot_be_read_is_not_brought_in(shop: Shop) -> None:
    source = small_models.write(shop.folder / "source", small_models.artifact())
    (source / MANIFEST_FILE).write_text("{}")
    with pytest.raises(ModelError, match=str(source)):
        shop.repository.add(source)
    assert not shop.repository.root.exists()


def test_a_damaged_verdict_counts_as_none_and_hides_nothing(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    version = shop.model(passed=True)
    (shop.repository.folder(version) / VERDICT_FILE).write_text("junk")
    assert [(each.id, each.verdict) for each in shop.repository.versions()] == [(version, None)]
    assert "Run `tipstream-engine verify` again" in caplog.text


def test_a_serving_version_that_is_gone_is_said_to_be(shop: Shop) -> None:
    version = shop.model(passed=True)
    shop.repository.promote(version, shop.key)
    shutil.rmtree(shop.repository.folder(version))
    with pytest.raises(ModelError, match=f"Version {version} is not in"):
        shop.repository.find("serving")


def test_a_damaged_version_hides_no_other(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = shop.model(passed=True), shop.engine()
    (shop.repository.folder(bad) / FACTS_FILE).write_text("{}")
    assert [version.id for version in shop.repository.versions()] == [good]
    assert f"Version {bad} is damaged" in caplog.text
