"""The one logger that TensorRT is given: warnings go to Python's logging, the latest are kept for exceptions."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import tensorrt as trt

_PYTHON = logging.getLogger("tensorrt")
_LEVELS: Final = {
    trt.ILogger.INTERNAL_ERROR: logging.ERROR,
    trt.ILogger.ERROR: logging.ERROR,
    trt.ILogger.WARNING: logging.WARNING,
    trt.ILogger.INFO: logging.DEBUG,
}


class Log(trt.ILogger):
    """Called by TensorRT from any of its threads, with the interpreter's lock held."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        trt.ILogger.__init__(self)
        self._said: deque[str] = deque(maxlen=4)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Take one message."""
        level = _LEVELS.get(severity)
        if level is None:  # verbose
            return
        if level >= logging.WARNING:  # some failures are only warned of
            self._said.append(msg)
        _PYTHON.log(level, "%s", msg)

    def reason(self) -> str:
        """Return the latest errors and warnings as half a sentence, and forget them."""
        said = "; ".join(self._said) or "it gave no reason"
        self._said.clear()
        return said


#: TensorRT keeps the first logger of a process for everything global, so there is but one.
LOG: Final = Log()
