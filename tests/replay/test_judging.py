"""A page is there whole, or as it was before."""

from pathlib import Path

import pytest

from replay.judging import _write
from replay.recording import RecordingError
from tests.replay.full_disk import full_disk


def test_a_disk_that_takes_no_more_leaves_the_page_as_it_was(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    _write(page, "before")
    with full_disk(), pytest.raises(RecordingError, match=r"page\.html cannot be written: "):
        _write(page, "after" * 100)
    assert page.read_text() == "before"
    assert list(tmp_path.iterdir()) == [page]


def test_a_folder_is_no_place_for_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, Path()):
        with pytest.raises(RecordingError, match="it is a folder"):
            _write(path, "page")
