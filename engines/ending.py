"""How a process ends that no call can save any more."""

from __future__ import annotations

import logging
import os
from typing import Final, NoReturn

log = logging.getLogger(__name__)

#: Of a process that lost its GPU: whoever keeps it alive starts it again.
EXIT_STATUS: Final = 70


def end_process(reason: str) -> NoReturn:
    """Log why and end the process at once: after a sticky error no CUDA call returns, clean-up included."""
    log.critical("%s The process ends; its state is in Redis and Kafka, and a new process goes on from there.", reason)
    logging.shutdown()
    os._exit(EXIT_STATUS)
