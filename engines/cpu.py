"""ONNX Runtime on the CPU: the embedded default, the fallback, and the reference that engines are judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engines.manifest import Artifact, Manifest, read
from engines.model import BUCKETS, ModelError, Scores, check_inputs, check_scores

# What lies between two operators of more rows than this outgrows a core's cache: 512 at once take a sixth longer.
_ROWS_A_RUN = 128
_WARM_UP_SIZES = (1, 8, 64, _ROWS_A_RUN)
# Weights outside the file are outside its hash. A folder that cannot exist makes ONNX Runtime refuse them.
_NO_EXTERNAL_DATA = "/dev/null/external-data-is-not-allowed"


class OnnxModel:
    """A model run by ONNX Runtime, on one thread."""

    def __init__(self, artifact: Artifact, *, max_batch: int = BUCKETS[-1]) -> None:
        """Build the session, check names, shapes and dtypes, and run it a few times; raises ModelError."""
        self.manifest: Manifest = artifact.manifest
        self.engine = f"cpu:{self.manifest.sha256[:8]}"
        self.max_batch = max_batch
        self.buckets = tuple(size for size in BUCKETS if size <= max_batch)
        self._session: onnxruntime.InferenceSession | None = _session(artifact)
        _check_signature(self._session, self.manifest)
        for n in _WARM_UP_SIZES:
            if n <= max_batch:
                shapes = (n, self.manifest.n_features), (n, *self.manifest.history)
                self.infer(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32))

    @classmethod
    def load(cls, folder: Path, *, features: str, max_batch: int = BUCKETS[-1]) -> Self:
        """Load a model folder for the feature catalogue with fingerprint `features`; raises ModelError."""
        return cls(read(folder, features=features), max_batch=max_batch)

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Score one batch; see `Model.infer`."""
        if self._session is None:
            raise ModelError("This model was closed; load it again.")
        check_inputs(self.manifest, self.max_batch, features, history)
        try:
            runs = [
                self._session.run(["p_tip", "value"], {"features": features[some], "history": history[some]})
                for some in (slice(start, start + _ROWS_A_RUN) for start in range(0, len(features), _ROWS_A_RUN))
            ]
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelError(f"ONNX Runtime failed on a batch of {len(features)}: {error}") from error
        p_tip, value = runs[0] if len(runs) == 1 else map(np.concatenate, zip(*runs, strict=True))
        return check_scores(Scores(p_tip, value), features, history)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def magnitudes(onnx: bytes, values: Sequence[str], batches: Iterable[Mapping[str, NDArray[np.float32]]]) -> list[float]:
    """Return the largest magnitude that each of a graph's outputs takes over batches of inputs by name."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    largest = np.zeros(len(values))
    for batch in batches:
        found = session.run(list(values), dict(batch))
        largest = np.maximum(largest, [np.abs(array).max(initial=0) for array in found])
    return [float(value) for value in largest]


def _session(artifact: Artifact) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors; they are raised as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_EXTERNAL_DATA)
    try:
        return onnxruntime.InferenceSession(artifact.onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load model {artifact.manifest.name} "
            f"{artifact.manifest.version}: {error}. Export it with opset 17 and all weights inside the file."
        ) from error


def _check_signature(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    """Compare the graph's inputs and outputs with what every model of ours has; the batch must be dynamic."""
    wanted = {
        "features": (manifest.n_features,),
        "history": manifest.history,
        "p_tip": (len(manifest.horizons_s),),
        "value": (),
    }
    ports = [*session.get_inputs(), *session.get_outputs()]
    if [port.name for port in ports] != list(wanted):
        raise ModelError(
            f"The ONNX graph has inputs and outputs {[port.name for port in ports]}; a model has exactly "
            f"{list(wanted)}, in this order. Export it with `tipstream-engine train`."
        )
    for port in ports:
        dynamic = bool(port.shape) and not isinstance(port.shape[0], int)
        if port.type != "tensor(float)" or not dynamic or tuple(port.shape[1:]) != wanted[port.name]:
            raise ModelError(
                f"`{port.name}` is {port.type} {port.shape} in the ONNX graph, but the manifest wants tensor(float) "
                f"['batch', {', '.join(map(str, wanted[port.name]))}]. Export the model with a dynamic batch and FP32."
            )
