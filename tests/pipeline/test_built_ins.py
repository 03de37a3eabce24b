"""The built-in plugins as the loader meets them: declared, sound, documented, and the default config made of them."""

from __future__ import annotations

import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alignpipe.api import ENTRY_POINT_GROUP
from alignpipe.config.convert import component_node
from alignpipe.registry import Registered, Registry, load_factory
from support.distributions import ROOT, InstallFakePlugin, RunCommand

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = PROJECT["entry-points"][ENTRY_POINT_GROUP]


@pytest.fixture
def built_ins(install_fake_plugin: InstallFakePlugin, fake_entry_points) -> Registry:
    """The registry of what pyproject.toml declares, whatever an older install of alignpipe says."""
    install_fake_plugin("alignpipe", DECLARED, {}, "0.0")
    return Registry.load(fake_entry_points(), {"ALIGNPIPE_STRICT_PLUGINS": "1"})


def components(registry: Registry) -> list[Registered]:
    return [registered for plugin in registry.plugins for registered in plugin.components]


def test_every_plugin_folder_is_an_entry_point() -> None:
    folders = {path.parent.name for path in (ROOT / "plugins" / "alignpipe_plugins").glob("*/plugin.py")}
    assert set(DECLARED.values()) == {f"alignpipe_plugins.{folder}.plugin" for folder in folders}


def test_every_component_is_a_config_node(built_ins: Registry) -> None:
    for registered in components(built_ins):
        node = component_node(registered)
        assert OmegaConf.get_type(node) is registered.component.config


def test_every_field_says_what_it_is(built_ins: Registry) -> None:
    silent = [
        f"{registered}: {entry.name}"
        for registered in components(built_ins)
        for entry in fields(registered.component.config)
        if not entry.metadata.get("help") and not is_dataclass(entry.type)
    ]
    assert silent == []


def test_every_factory_is_there(built_ins: Registry) -> None:
    for registered in components(built_ins):
        assert callable(load_factory(registered))


def test_the_default_config_composes(
    alignpipe_command: RunCommand, install_fake_plugin: InstallFakePlugin, tmp_path: Path
) -> None:
    install_fake_plugin("alignpipe", DECLARED, {}, "0.0")
    only_ours = {"ALIGNPIPE_PLUGINS": "alignpipe", "ALIGNPIPE_STRICT_PLUGINS": "1"}
    for overrides in ([], ["model=pretrained"], ["experiment=smoke"], ["reward=rules"], ["data=files"]):
        done = alignpipe_command(*overrides, "--cfg", "job", **only_ours)
        assert (done.returncode, done.stderr) == (0, ""), overrides


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_small_checkpoint_can_take_the_tiny_models_sizes(
    stage: str, alignpipe_command: RunCommand, install_fake_plugin: InstallFakePlugin
) -> None:
    install_fake_plugin("alignpipe", DECLARED, {}, "0.0")
    only_ours = {"ALIGNPIPE_PLUGINS": "alignpipe"}
    own = alignpipe_command("model=pretrained", "experiment=small", "--cfg", "job", "-p", stage, **only_ours)
    tiny = alignpipe_command("--cfg", "job", "-p", stage, **only_ours)
    real = alignpipe_command("model=pretrained", "--cfg", "job", "-p", stage, **only_ours)
    assert own.stdout == tiny.stdout != real.stdout
    for made, products in ((tiny, "auto"), (real, "model")):
        assert f"linear_dtype: {products}" in made.stdout
