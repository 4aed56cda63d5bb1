"""What is no number of the kind that a command takes."""

from __future__ import annotations

import pytest

from engines.cli import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("gc --keep -1", "'-1' is no whole number from 0 on"),
        ("bench m --runs 0", "'0' is no whole number above 0"),
        ("verify m --traffic t --runs many", "'many' is no whole number above 0"),
        ("verify m --traffic t --energy -1", "'-1' is no number from 0 on"),
        ("verify m --traffic t --grid nan", "'nan' is no number from 0 on"),
        ("build m --timeout soon", "'soon' is no number from 0 on"),
        ("build m --buckets 8,1", "'8,1' must be whole numbers above 0, ascending"),
        ("build m --buckets 1,", "'1,' must be whole numbers above 0, ascending"),
        ("build m --lengths a", "'a' must be whole numbers above 0, ascending"),
        ("verify m --traffic t --energy 1e300", "1e+300 is more than 1,000,000"),
        ("gc --keep 99999999999999999999", "99999999999999999999 is more than 9,223,372,036,854,775,807"),
        ("bench m --runs 99999999999999999999", "99999999999999999999 is more than 1,000,000"),
        ("build m --buckets 1,99999999999999999999", "99999999999999999999 is more than 1,000,000"),
    ],
)
def test_it_is_told_in_a_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
