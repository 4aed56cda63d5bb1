"""All that differs between TensorRT 8.6, 10 and 11. No other module may name what is not in every one of them.

Names that some version lacks are looked up by string, so that type checks against any version's stubs hold; the tests
compare every name in this package, these strings included, with each version's bindings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import tensorrt as trt

from engines.model import ModelError

VERSION: Final[str] = trt.__version__
MAJOR: Final = int(VERSION.split(".", 1)[0])
#: From 10 on, types live in the ONNX file alone; before, flags allow the builder to lower them.
STRONG_TYPES: Final = MAJOR >= 10
#: Newest ONNX opset that the parser takes; None where it is newer than any that we write.
MAX_OPSET: Final = None if STRONG_TYPES else 17


def check() -> None:
    """Raise ModelError unless this TensorRT is one that the code was written for."""
    if tuple(map(int, VERSION.split(".")[:2])) < (8, 6):
        raise ModelError(f"TensorRT {VERSION} is too old: install 8.6 or newer (`pip install 'tipstream[gpu]'`).")


def create_network(builder: trt.Builder) -> trt.INetworkDefinition:
    """Make an empty network: explicit batch, strongly typed where that exists."""
    name = "STRONGLY_TYPED" if STRONG_TYPES else "EXPLICIT_BATCH"
    return builder.create_network(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)))


def allow(config: trt.IBuilderConfig, network: trt.INetworkDefinition, precision: str, keep: Collection[str]) -> None:
    """Let the builder use a lower precision, except in the layers named in `keep`.

    Where types are strong there is nothing to allow. INT8 may fall back to FP16 where no INT8 kernel exists.
    """
    if STRONG_TYPES or precision == "fp32":
        return
    flags: Any = trt.BuilderFlag
    config.set_flag(_member(flags, "FP16"))
    if precision == "int8":
        config.set_flag(_member(flags, "INT8"))
    config.set_flag(_member(flags, "OBEY_PRECISION_CONSTRAINTS"))
    for i in range(network.num_layers):
        layer: Any = network.get_layer(i)
        if layer.name in keep and layer.num_outputs and layer.get_output(0).dtype == trt.DataType.FLOAT:
            layer.precision = trt.DataType.FLOAT
            layer.set_output_type(0, trt.DataType.FLOAT)


def share_profile(config: trt.IBuilderConfig) -> None:
    """Let several contexts use one profile: to be asked for in 8.6, granted in 10, a matter of course from 11 on."""
    feature = _member(trt.PreviewFeature, "PROFILE_SHARING_0806", None)
    if feature is not None:
        config.set_preview_feature(feature, True)


def watch(config: trt.IBuilderConfig, report: Callable[[str], None]) -> object:
    """Have `report` told of each phase that begins; returns what must be kept alive until the build ends."""
    base: Any = _member(trt, "IProgressMonitor", None)
    if base is None:  # 8.6 tells nothing
        return None

    class Monitor(base):
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            pass

    monitor = Monitor()
    settings: Any = config
    settings.progress_monitor = monitor
    return monitor


def _member(owner: object, name: str, *default: object) -> Any:
    return getattr(owner, name, *default)
