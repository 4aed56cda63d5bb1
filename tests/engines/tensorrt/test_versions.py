"""What differs between TensorRT's versions, on the newest bindings and on what the older ones have besides."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from engines.model import ModelError
from tests.engines.tensorrt import bindings
from tests.services.missing import require


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    require(bindings.missing())
    monkeypatch.setitem(sys.modules, "tensorrt", bindings.load())
    monkeypatch.delitem(sys.modules, "engines.tensorrt.versions", raising=False)
    yield importlib.import_module("engines.tensorrt.versions")
    sys.modules.pop("engines.tensorrt.versions", None)


@pytest.fixture
def config(versions: ModuleType) -> Any:
    return mock.create_autospec(bindings.load().IBuilderConfig, instance=True)


def older(versions: Any, monkeypatch: pytest.MonkeyPatch, **names: object) -> Any:
    """Have the module see a TensorRT that has further names."""
    trt = bindings.load()
    everything = {name: getattr(trt, name) for name in dir(trt) if not name.startswith("__")}
    seen = SimpleNamespace(**{**everything, **names})
    monkeypatch.setattr(versions, "trt", seen)
    monkeypatch.setattr(versions, "STRONG_TYPES", False)
    return seen


def layers(count: int) -> Any:
    trt: Any = bindings.load()
    network = mock.create_autospec(trt.INetworkDefinition, instance=True)
    made = [
        SimpleNamespace(
            name=f"layer{i}",
            num_outputs=1,
            get_output=lambda _: SimpleNamespace(dtype=trt.DataType.FLOAT),
            set_output_type=mock.Mock(),
            precision=None,
        )
        for i in range(count)
    ]
    network.num_layers = count
    network.get_layer.side_effect = lambda i: made[i]
    return network


def test_on_the_newest_precision_is_in_the_model_alone(versions: Any, config: Any) -> None:
    for precision in ("fp32", "fp16", "int8"):
        versions.allow(config, layers(2), precision, {"layer0"})
    versions.share_profile(config)
    assert config.mock_calls == []
    assert versions.STRONG_TYPES
    assert versions.MAX_OPSET is None


FLAGS = SimpleNamespace(FP16="FP16", INT8="INT8", OBEY_PRECISION_CONSTRAINTS="OBEY")


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", []), ("fp16", ["FP16", "OBEY"]), ("int8", ["FP16", "INT8", "OBEY"])]
)
def test_on_8_6_flags_allow_it_but_for_the_layers_that_are_kept(
    versions: Any, config: Any, monkeypatch: pytest.MonkeyPatch, precision: str, flags: list[str]
) -> None:
    older(versions, monkeypatch, BuilderFlag=FLAGS)
    network = layers(3)
    versions.allow(config, network, precision, {"layer1"})
    assert [call.args[0] for call in config.set_flag.call_args_list] == flags
    kept = [i for i in range(3) if network.get_layer(i).precision is not None]
    assert kept == ([] if precision == "fp32" else [1])


def test_on_8_6_one_profile_is_shared_on_request(versions: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    older(versions, monkeypatch, PreviewFeature=SimpleNamespace(PROFILE_SHARING_0806="sharing"))
    versions.share_profile(config)
    config.set_preview_feature.assert_called_once_with("sharing", True)


@pytest.mark.parametrize(("version", "fine"), [("8.5.3", False), ("8.6.0", True), ("10.16.1.11", True), ("7.9", False)])
def test_what_is_too_old_is_refused(versions: Any, monkeypatch: pytest.MonkeyPatch, version: str, fine: bool) -> None:
    monkeypatch.setattr(versions, "VERSION", version)
    if fine:
        versions.check()
    else:
        with pytest.raises(ModelError, match=f"TensorRT {version} is too old: install 8.6 or newer"):
            versions.check()


def test_each_phase_of_a_build_is_reported(versions: Any) -> None:
    said: list[str] = []
    config = SimpleNamespace(progress_monitor=None)  # the bindings' own would want a real one
    monitor: Any = versions.watch(config, said.append)
    assert config.progress_monitor is monitor
    monitor.phase_start("Building Engine", None, 3)
    assert monitor.step_complete("Building Engine", 1)
    monitor.phase_finish("Building Engine")
    assert said == ["Building Engine"]
