"""Every script explains itself, and takes what every experiment takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONS = ("--out", "--seed", "--device", "--amp", "--plain", "--threads", "--resume")


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_help_names_the_common_options(
    run_example: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        run_example(name, "--help")
    assert exit.value.code == 0
    out = capsys.readouterr().out
    missing = [option for option in OPTIONS if option not in out]
    assert not missing, f"examples/{name}.py lacks {missing}: use training.arguments"
