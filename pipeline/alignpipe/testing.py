"""For the tests of a reward package: the contract that alignpipe asks of a reward, as pytest tests.

    from alignpipe.testing import reward_contract

    test_contract = reward_contract("acme_politeness")
    test_contract_with_another_word = reward_contract("acme_politeness", "reward.word=thanks")

`alignpipe plugins check` runs the same checks at the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from alignpipe.api import Sample

__all__ = ["reward_contract"]


def reward_contract(option: str, *overrides: str, samples: Sequence[Sample] | None = None) -> Callable[..., None]:
    """A pytest test, one case per check, of the installed reward `option` with overrides as on the command line.

    `samples` to try it on are by default built-in ones, whose rows hold a text in every column that it reads, or the
    example that it gives of it (`columns`). A check that cannot be made on them is skipped and says why. A batch may
    take 30 seconds, or what an override `scoring.deadline=<seconds>` says.
    """
    import pytest

    from alignpipe.authoring.checks import CHECKS, verdict

    @cache
    def candidate(folder: Path) -> Any:
        from alignpipe.authoring.candidate import Candidate
        from alignpipe.authoring.reward_choice import choose

        return Candidate(choose(option, overrides), folder, samples)

    # The factory of temporary folders has one base per session: what was trained for one check serves the others.
    @pytest.mark.parametrize("check", list(CHECKS))
    def test(check: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.getbasetemp() / f"contract-{id(candidate):x}"
        found = verdict(check, candidate(folder))
        if found.outcome == "skipped":
            pytest.skip(found.why)
        assert found.outcome == "ok", f"{option}: {check}: {found.why}"

    return test
