"""The one logger that TensorRT is given: warnings to Python's logging, the latest errors kept for exceptions."""

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
        self._errors: deque[str] = deque(maxlen=8)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Take one message."""
        level = _LEVELS.get(severity)
        if level is None:  # verbose
            return
        if level == logging.ERROR:
            self._errors.append(msg)
        _PYTHON.log(level, "%s", msg)

    def reason(self) -> str:
        """Return the errors since the last call as half a sentence, and forget them."""
        errors, self._errors = list(self._errors), deque(maxlen=8)
        return "; ".join(errors) or "it gave no reason"


#: TensorRT keeps the first logger of a process for everything global, so there is but one.
LOG: Final = Log()
