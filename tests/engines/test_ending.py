"""A lost GPU: the process ends, at once and with a reason."""

import subprocess
import sys

from engines.ending import EXIT_STATUS

# A member whose model finds the GPU gone, as the runner does: in the model's thread, with the loop at work.
MEMBER = """
import asyncio, logging
import numpy as np
from engines.ending import end_process
from engines.ladder import Ladder, Rung
from engines.prior import PriorModel
from engines.worker import ModelWorker
from tests.engines import small_models

logging.basicConfig()

class Lost(PriorModel):
    def infer(self, features, history):
        end_process("trt:abcdef01 lost its GPU: The batch failed: it broke (cudaErrorIllegalAddress).")

async def main():
    manifest = small_models.artifact().manifest
    ladder = Ladder([Rung("full", ModelWorker(Lost(manifest)), 60.0)], PriorModel(manifest))
    await ladder.infer(np.zeros((1, 5), np.float32), np.zeros((1, 4, 3), np.float32))
    print("answered")

asyncio.run(main())
"""


def test_a_lost_gpu_ends_the_process_and_says_why() -> None:
    ended = subprocess.run([sys.executable, "-c", MEMBER], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == EXIT_STATUS
    assert ended.stdout == ""
    assert "lost its GPU: The batch failed: it broke (cudaErrorIllegalAddress). The process ends" in ended.stderr
