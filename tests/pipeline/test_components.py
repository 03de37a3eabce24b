"""What a plugin may yield, and which code its results are compared with."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from alignpipe.api import Component, Port
from alignpipe.api.components import NO_GROUPS
from alignpipe.config.model import RunSettings
from alignpipe.plan.code import code_hashes
from alignpipe.registry.registered import Registered


@dataclass(frozen=True)
class Options:
    size: int = 1


def component(**given: Any) -> Component:
    return Component(**{"group": "data", "name": "odd", "config": Options, "factory": "a:b", "summary": "", **given})


def test_every_setting_of_a_run_is_no_group() -> None:
    assert {entry.name for entry in fields(RunSettings)} <= set(NO_GROUPS)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"group": "seed"}, "component group 'seed' is a key of the config itself"),
        ({"version": "2"}, "version of data/odd must be a whole number, not '2'"),
        ({"makes": "data"}, "data/odd makes one of dataset, policy, reward, report or None, not 'data'"),
        ({"uses": "model"}, r"uses of data/odd must be a tuple of names, such as \('model',\)"),
        ({"needs": {"policy": "policy"}}, "'policy' must be a Port, not 'policy'"),
    ],
)
def test_what_is_no_component_is_refused_where_it_is_made(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        component(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("policies",), "kind of a port is one of dataset, .*, not 'policies'"),
        (("policy", "nearst"), "default of a port is one of .*, not 'nearst'"),
    ],
)
def test_ports_of_a_kind_that_is_not_known(given: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Port(*given)


def test_code_that_lies_beside_the_plugins_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin's module, its config and its factory may be in different packages of one distribution."""
    for folder in ("beside", "beside/plugins", "beside/work", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    for file in ("beside/work/stage.py", "elsewhere/stage.py"):
        (tmp_path / file).write_text("raise ImportError('too heavy to be looked at')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def hashed(factory: str) -> dict[str, str]:
        code_hashes.__globals__["_hash"].cache_clear()
        offered = Registered(
            component(factory=factory), "acme", "beside.plugins.data", "beside", "1", tmp_path / "beside" / "plugins"
        )
        return code_hashes([offered])

    own, others = hashed("beside.work.stage:make"), hashed("elsewhere.stage:make")
    for file in ("beside/work/stage.py", "elsewhere/stage.py"):
        (tmp_path / file).write_text("changed = True\n")
    assert hashed("beside.work.stage:make") != own
    assert hashed("elsewhere.stage:make") == others, "another distribution's code has a version of its own"
    assert "beside.work.stage" not in sys.modules
