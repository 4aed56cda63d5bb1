"""What ONNX Runtime's runner refuses to load."""

from pathlib import Path

import numpy as np
import pytest

from engines.cpu import OnnxModel
from engines.manifest import Artifact
from engines.model import ModelError
from tests.engines import small_models


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_features": 7}, r"`features` is tensor\(float\) \['batch', 7\].* wants tensor\(float\) \['batch', 5\]"),
        ({"history": (4, 2)}, r"`history` is tensor\(float\) \['batch', 4, 2\]"),
        ({"batch": 8}, "dynamic batch"),
        ({"names": ("x", "history", "p_tip", "value")}, r"inputs and outputs \['x', .* has exactly \['features'"),
    ],
)
def test_a_graph_that_differs_from_its_manifest_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        OnnxModel(small_models.artifact(**options))


def test_bytes_that_are_no_model_are_refused() -> None:
    model = small_models.artifact()
    with pytest.raises(ModelError, match=r"cannot load model small 1.*opset 17"):
        OnnxModel(Artifact(model.manifest, b"not a model"))


def test_weights_outside_the_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_models.with_external_data(small_models.artifact(), tmp_path)
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look
    with pytest.raises(ModelError, match="all weights inside the file"):
        OnnxModel(model)


def test_an_amount_that_is_no_number_is_refused() -> None:
    with pytest.raises(ModelError, match="the model is at fault"):
        OnnxModel(small_models.artifact(value_scale=np.inf))


def test_a_closed_model_says_so() -> None:
    model = OnnxModel(small_models.artifact())
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model.infer(np.zeros((1, 5), np.float32), np.zeros((1, 4, 3), np.float32))
