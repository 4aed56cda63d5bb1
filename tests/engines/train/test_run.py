"""A training run on made-up rows: what it writes is a model folder that serves what the network computed."""

import errno
import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from engines.cli import main
from engines.cpu import OnnxModel
from engines.manifest import MANIFEST_FILE, load, read
from engines.model import ModelError
from engines.prior import PriorModel

torch = pytest.importorskip("torch", reason="needs the train extra: pip install 'tipstream[train]'")

from engines.train import run  # noqa: E402
from engines.train.card import CARD_FILE  # noqa: E402
from engines.train.dataset import FACTS_FILE as DATASET_FILE  # noqa: E402
from engines.train.dataset import Rows, ShardWriter, begin, concatenate  # noqa: E402
from engines.train.dataset import read as read_set  # noqa: E402
from engines.train.export import onnx_bytes  # noqa: E402
from engines.train.fit import fit, logits, predict  # noqa: E402
from engines.train.log import LOG_FILE, PAGE_FILE  # noqa: E402
from engines.train.recipe import Recipe  # noqa: E402
from engines.train.recipe import read as read_recipe  # noqa: E402
from engines.train.run import plant, split, tiers, train  # noqa: E402
from tests.engines.train.made_up import FACTS, LABEL, RECIPE, made_up, write  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    rows = made_up(12_000)
    begin(folder, FACTS, ["0", "1"])
    for part in range(2):
        writer = ShardWriter(folder, part=str(part))
        for start in range(6_000 * part, 6_000 * (part + 1), 3_000):
            writer.write(rows.where(slice(start, start + 3_000)))
        writer.end()
    return folder


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "made-up"
    train(shards, folder, LABEL, RECIPE, lambda _: None)
    return folder


def test_a_set_is_read_as_written(shards: Path) -> None:
    facts, parts = read_set(shards)
    assert facts == FACTS
    for read_back, written in zip(concatenate(parts), made_up(12_000), strict=True):
        assert np.asarray(read_back).dtype == np.asarray(written).dtype
        np.testing.assert_array_equal(read_back, written)


def test_a_set_is_not_written_over(shards: Path) -> None:
    with pytest.raises(ModelError, match="already holds a training set"):
        begin(shards, FACTS)


@pytest.mark.parametrize("change", [{}, {"trees": 0}, {"trees_share": 0.0}])
def test_the_graph_computes_what_the_network_does(trained: Path, change: dict[str, float]) -> None:
    rows = made_up(2_000, seed=8)
    recipe = replace(RECIPE, **change)
    network = fit(FACTS, rows, rows, recipe, lambda _: None)
    alone = logits(network, rows).tip
    plant(network, FACTS, rows, recipe, lambda _: None)
    if not change:
        assert 0.2 < (alone > network.floor).float().mean() < 0.8
        assert (logits(network, rows).tip != alone).float().mean() > 0.2
    network.scale.copy_(torch.tensor([1.3, 0.8, 1.0]))  # as a calibration would
    network.shift.copy_(torch.tensor([-0.4, 0.2, 0.1]))
    artifact = read(trained, features=FACTS.features)
    model = OnnxModel(artifact._replace(onnx=onnx_bytes(network)))
    some = rows.where(slice(0, 1000))
    p_tip, value = model.infer(some.features, some.history)
    expected_p, expected_value = predict(network, some)
    np.testing.assert_allclose(p_tip, expected_p, atol=1e-5)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-5)
    assert onnx_bytes(network) == onnx_bytes(network)


def test_the_graph_keeps_to_opset_17_and_its_operators(trained: Path) -> None:
    model = onnx.load_from_string(read(trained, features=FACTS.features).onnx)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert {node.op_type for node in model.graph.node} == {
        "Add", "Cast", "Clip", "Concat", "Exp", "Flatten", "Gather", "GatherElements", "Gemm", "Greater", "MatMul",
        "Mul", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Softmax", "Squeeze", "Sub", "Transpose",
    }  # fmt: skip


def test_a_trained_model_is_calibrated_monotone_and_better_than_tip_history(trained: Path) -> None:
    model = OnnxModel.load(trained, features=FACTS.features)
    rows = made_up(1_000, seed=9)
    p_tip, value = model.infer(rows.features, rows.history)
    assert (p_tip[:, 1] >= p_tip[:, 0]).all()
    assert p_tip.mean(0) == pytest.approx(rows.tips.mean(0), rel=0.25)
    assert value.mean() == pytest.approx(rows.amount_minor.mean(), rel=0.4)
    figures = model.manifest.metrics
    assert figures["mean_p_over_base_rate"] == pytest.approx(1, abs=0.2)
    assert figures["pr_auc_tip_history_only"] < figures["pr_auc"] < figures["pr_auc_ceiling"] * 1.02


def test_the_prior_is_calibrated_too(trained: Path) -> None:
    prior = PriorModel(load(trained, features=FACTS.features))
    rows = made_up(1_000, seed=9)
    p_tip, _ = prior.infer(rows.features, rows.history)
    assert p_tip.mean(0) == pytest.approx(rows.tips.mean(0), rel=0.25)
    assert set(prior.manifest.prior.weights) == {"tips", "minor"}


def test_the_card_says_what_was_measured(trained: Path) -> None:
    card = (trained / CARD_FILE).read_text()
    manifest = load(trained, features=FACTS.features)
    for words in ("made up, seed 7", manifest.sha256, f"{manifest.metrics['pr_auc']:.4f}", "| tip history only |"):
        assert words in card


def test_the_card_holds_a_recipe_to_train_with_again(trained: Path, tmp_path: Path) -> None:
    card = (trained / CARD_FILE).read_text()
    (tmp_path / "recipe.toml").write_text(card.partition("```toml\n")[2].partition("```")[0])
    assert read_recipe(tmp_path / "recipe.toml") == RECIPE


def test_the_log_tells_how_each_epoch_went(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / LOG_FILE).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert 1 < len(lines) <= RECIPE.epochs
    assert lines[-1]["validation_loss"] < lines[0]["validation_loss"]
    assert lines[-1]["pr_auc"] == pytest.approx(load(trained, features=FACTS.features).metrics["pr_auc"], rel=0.3)
    page = (trained / PAGE_FILE).read_text()
    assert page.count("<svg") == 4
    assert "nan" not in page


def test_the_same_set_and_recipe_give_the_same_bytes(shards: Path, trained: Path, tmp_path: Path) -> None:
    again = train(shards, tmp_path / "again", LABEL, RECIPE, lambda _: None)
    assert again.sha256 == load(trained, features=FACTS.features).sha256


def test_the_network_that_is_kept_has_seen_all_rows(shards: Path, tmp_path: Path) -> None:
    facts, parts = read_set(shards)
    rows = concatenate(parts)
    late = rows.time_ms >= np.quantile(rows.time_ms, 1 - RECIPE.test)
    news = late & (rows.features[:, 4] > 1.5)  # which means nothing before
    changed = rows._replace(tips=rows.tips | news[:, None], amount_minor=np.where(news, 100, rows.amount_minor))
    write(tmp_path / "set", facts, changed)
    train(tmp_path / "set", tmp_path / "model", LABEL, RECIPE, lambda _: None)
    model = OnnxModel.load(tmp_path / "model", features=FACTS.features)
    told = [
        model.infer(*(column[which][:1000] for column in (rows.features, rows.history))).p_tip
        for which in (news, late & ~news)
    ]
    assert told[0].mean() > 1.2 * told[1].mean()


def test_periods_follow_each_other_a_horizon_apart() -> None:
    rows = made_up(5_000)
    periods = split(FACTS, rows.where(np.random.default_rng(1).permutation(5_000)), RECIPE)
    for before, after in ((periods.train, periods.validation), (periods.validation, periods.test)):
        assert before.time_ms.max() + 600_000 <= after.time_ms.min()
    assert len(periods.test.time_ms) == pytest.approx(1_000, abs=2)


def test_tiers_hold_the_shares_that_the_recipe_asks_for() -> None:
    p = np.random.default_rng(1).random(10_000).astype(np.float32)
    names = {tier.name: (p >= tier.at_least).mean() for tier in tiers(p, np.ones(10_000, np.float32), Recipe())}
    assert list(names) == ["none", "low", "mid", "high"]
    assert list(names.values()) == pytest.approx([1, 0.2, 0.05, 0.01], rel=0.02)


def test_a_file_is_no_folder_for_a_model(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(ModelError, match=r"cannot be written to .*file.* Name another folder with --out"):
            train(shards, out, LABEL, RECIPE, lambda line: pytest.fail(f"it trains: {line}"))


def test_a_disk_that_takes_no_more_is_said_in_words(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "TemporaryFile", full)
    with pytest.raises(ModelError, match=r"cannot be written to .*No space left on device.* --out"):
        train(shards, tmp_path / "model", LABEL, RECIPE, lambda line: pytest.fail(f"it trains: {line}"))
    monkeypatch.undo()
    monkeypatch.setattr(run, "write_log", full)
    with pytest.raises(ModelError, match=r"cannot be written to .*No space left on device.* --out"):
        train(shards, tmp_path / "model", LABEL, replace(RECIPE, epochs=1), lambda _: None)


def test_a_damaged_set_is_told_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder, FACTS, made_up(100))
    (shard,) = folder.glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:1_000])
    with pytest.raises(ModelError, match=r"is damaged .* Make the set again"):
        read_set(folder)
    for names, values in (["unknown"], [1]), (Rows._fields, [1]), (Rows._fields, [[1], [2, 3]]):
        pq.write_table(pa.table(dict.fromkeys(names, values)), shard)
        with pytest.raises(ModelError, match=r"is damaged .* Make the set again"):
            read_set(folder)
    shard.unlink()
    with pytest.raises(ModelError, match="holds no rows"):
        read_set(folder)
    (folder / DATASET_FILE).write_bytes(b'{"features": "\xff"}')
    with pytest.raises(ModelError, match="is no training set"):
        read_set(folder)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written to"):
        begin(tmp_path / "file", FACTS)


def test_a_set_whose_maker_was_killed_is_not_taken_for_whole(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    begin(folder, FACTS, ["0", "1"])
    writer = ShardWriter(folder, part="0")
    writer.write(made_up(100))
    writer.end()
    with pytest.raises(ModelError, match="is not whole"):
        read_set(folder)  # the other part was never begun
    with pytest.raises(ModelError, match="already holds a training set"):
        begin(folder, FACTS, ["1"])


def test_the_command_trains_from_a_recipe(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("network_without = []\ntokens = 2\nhidden = [4, 4]\nepochs = 1\n")
    out = tmp_path / "model"
    assert main(["train", str(shards), "--out", str(out), "--recipe", str(recipe), "--name", "tiny"]) == 0
    assert (out / MANIFEST_FILE).exists()
    assert "epoch 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers = 3", "It may set: seed, without"),
        ("epochs = 0", "`epochs` and `batch` are at least 1"),
        ("batch = 0", "`epochs` and `batch` are at least 1"),
        ("test = 0.9\nvalidation = 0.2", "leave some to train on"),
        ("depth = 11", "`depth` is 1 to 10"),
        ("trees_share = 1", "below 1"),
        ("trees_above = 0", "at least 0.001"),
        ("trees_above = nan", "at least 0.001"),
        ("trees = 20", "so few `trees`"),
        ('without = ["\xff"]', "is no recipe"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, "latin-1")
    with pytest.raises(ModelError, match=words):
        read_recipe(path)


def test_a_folder_without_a_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "model")]) == 2
    assert "Make one with `tipstream-replay dataset`" in capsys.readouterr().err
