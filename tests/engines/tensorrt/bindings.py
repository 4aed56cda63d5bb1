"""TensorRT's own Python bindings without TensorRT: enough to look at every name, and for nothing to run.

The bindings' wheel is fetched once into `var/`. Its extension module needs three libraries, of which it takes a handful
of functions: empty stand-ins for these let it be imported on any Linux machine with a C compiler.
"""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

LIB: Final = Path(__file__).parents[3] / "var" / "tensorrt-bindings"
VERSION: Final = "11.4.0.106"
_SONAMES: Final = tuple(f"lib{name}.so.11" for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"))
_FUNCTIONS: Final = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_FOLDER: Final = LIB / f"{VERSION}-{sys.implementation.cache_tag}"
_EXTENSION: Final = _FOLDER / "tensorrt_bindings" / "tensorrt.so"


@cache
def missing() -> str | None:
    """Fetch and prepare what is not there yet; the reason if that cannot be done."""
    if not sys.platform.startswith("linux"):
        return "the bindings of TensorRT are for Linux"
    if (_FOLDER / "ready").exists():
        return None
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler to make stand-ins for TensorRT's libraries"
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    uv = shutil.which("uv")
    install = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    wanted = ["--quiet", "--no-deps", "--target", str(_FOLDER), f"tensorrt-cu13-bindings=={VERSION}"]
    fetched = subprocess.run([*install, *wanted], capture_output=True, text=True, timeout=200)
    if fetched.returncode:
        return f"TensorRT's bindings could not be fetched ({fetched.stderr.strip().splitlines()[-1:]})"
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS)
    for soname in _SONAMES:
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{soname}", "-o", str(_FOLDER / soname)]
        subprocess.run(command, input=source, text=True, check=True)
    (_FOLDER / "ready").touch()
    return None


@cache
def load() -> ModuleType:
    """Return the bindings' module, its classes as NVIDIA made them; call after `missing` gave None."""
    for soname in _SONAMES:  # found again by their names when the extension asks for them
        ctypes.CDLL(str(_FOLDER / soname), mode=ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("tensorrt_bindings.tensorrt", _EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__version__ = VERSION  # type: ignore[attr-defined]  # the package around the extension sets it
    return module


def write_stubs(folder: Path) -> None:
    """Write `tensorrt.pyi`, as mypy's own generator reads it off the bindings."""
    stubgen = [sys.executable, "-c", "import mypy.stubgen; mypy.stubgen.main()"]
    options = ["--inspect-mode", "-q", "-m", "tensorrt_bindings.tensorrt", "-o", str(folder)]
    environment = {"LD_LIBRARY_PATH": str(_FOLDER), "PYTHONPATH": str(_FOLDER)}
    subprocess.run([*stubgen, *options], env=environment, check=True, capture_output=True, timeout=200)
    made = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = made.read_text().replace("tensorrt_bindings.tensorrt.", "")
    text = re.sub(r"(: |-> )bool\b", r"\1builtins.bool", text)  # the module has a `bool` of its own
    (folder / "tensorrt.pyi").write_text(f"import builtins\n{_parsable(text)}\n__version__: str\n")
    made.unlink()


def _parsable(text: str) -> str:
    """Give the few signatures that are no Python, for docstrings may say anything, any arguments."""
    lines = text.splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            at = (error.lineno or 1) - 1
            lines[at] = re.sub(r"def (\w+)\(.*", r"def \1(self, *args: Any, **kwargs: Any) -> Any: ...", lines[at])
        else:
            return "\n".join(["from typing import Any", *lines])
