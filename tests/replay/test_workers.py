"""A scheduler that cannot be reached is told in words."""

import pytest

from replay.recording import RecordingError
from replay.workers import shared_out


@pytest.mark.parametrize("scheduler", ["nonsense", "nonsense://here:1", "tcp://here:there"])
def test_what_is_no_address_is_told_in_words(scheduler: str) -> None:
    pytest.importorskip("distributed", reason="needs the cluster extra: pip install 'tipstream[cluster]'")
    with (
        pytest.raises(RecordingError, match=f"No Dask scheduler answers at {scheduler}: "),
        shared_out(scheduler=scheduler),
    ):
        pass
