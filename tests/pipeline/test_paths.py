"""A path as a user writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignpipe.paths import user_path


def test_a_home_that_there_is_and_one_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/models") == Path("/home/me/models")
    assert user_path(Path("data/~x")) == Path("data/~x")
    nobodys = user_path("~nobody-here/models")
    assert nobodys == Path("~nobody-here/models")
    assert not nobodys.exists()
    with pytest.raises(RuntimeError):  # what this is for
        Path("~nobody-here/models").expanduser()
