"""The loader and the registry, against distributions written to disk; nothing installed on this machine is seen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from alignpipe.api import API_VERSION
from alignpipe.errors import ConfigError, PluginError
from alignpipe.registry import Registry, load_factory, loader
from support.distributions import InstallFakePlugin, component_source

EntryPoints = Callable[[], list[EntryPoint]]


class Loading:
    """A registry over the fake distributions, and the warnings it gave."""

    def __init__(self, entry_points: EntryPoints) -> None:
        self.entry_points = entry_points
        self.warnings: list[str] = []

    def __call__(self, **environ: str) -> Registry:
        return Registry.load(self.entry_points(), environ, self.warnings.append)


@pytest.fixture
def load(fake_entry_points: EntryPoints) -> Loading:
    return Loading(fake_entry_points)


@pytest.fixture
def acme(install_fake_plugin: InstallFakePlugin) -> None:
    install_fake_plugin(
        "Acme_Reward",
        {"acme": "acme_reward.plugin"},
        {"acme_reward/plugin.py": component_source("reward", "acme")},
        "0.3",
    )


@pytest.fixture
def built_in(install_fake_plugin: InstallFakePlugin) -> None:
    install_fake_plugin(
        "alignpipe",
        {"length": "own_length.plugin"},
        {"own_length/plugin.py": component_source("reward", "length")},
        "9.9",
    )


def broken(install: InstallFakePlugin, source: str, entry_point: str = "oops", name: str = "oops_reward") -> None:
    install(name.replace("_", "-"), {entry_point: f"{name}.plugin"}, {f"{name}/plugin.py": source})


def test_a_plugin_brings_its_component_with_its_origin(acme: None, load: Loading, tmp_path: Path) -> None:
    registered = load().get("reward", "acme")
    assert (registered.distribution, registered.version, registered.plugin) == ("acme-reward", "0.3", "acme")
    assert registered.folder == tmp_path / "site" / "acme_reward"
    assert not registered.built_in
    assert load.warnings == []


def test_groups_options_and_find(acme: None, built_in: None, load: Loading) -> None:
    registry = load()
    assert registry.groups() == ["reward"]
    assert registry.options("reward") == ["acme", "length"]
    assert registry.options("nothing") == []
    acme_config = registry.get("reward", "acme").component.config
    assert registry.of_node(acme_config, "acme") is registry.get("reward", "acme")
    with pytest.raises(ConfigError, match="'length' and has a Config"):
        registry.of_node(acme_config, "length")


def test_the_built_ins_come_first_and_are_marked(acme: None, built_in: None, load: Loading) -> None:
    registry = load()
    assert [plugin.distribution for plugin in registry.plugins] == ["alignpipe", "acme-reward"]
    assert registry.get("reward", "length").built_in


def test_a_plugin_may_be_an_object_or_a_class(install_fake_plugin: InstallFakePlugin, load: Loading) -> None:
    source = component_source("reward", "{name}").replace("@hookimpl\ndef", "class Plugin:\n  @hookimpl\n  def")
    source = source.replace("alignpipe_components()", "alignpipe_components(self)").replace("    yield", "     yield")
    modules = {
        "one/plugin.py": source.replace("{name}", "first"),
        "two/plugin.py": source.replace("{name}", "second") + "plugin = Plugin()\n",
    }
    install_fake_plugin("objects", {"one": "one.plugin:Plugin", "two": "two.plugin:plugin"}, modules)
    assert load().options("reward") == ["first", "second"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 /", "SyntaxError"),
        (
            "from alignpipe.api import hookimpl\n@hookimpl\ndef alignpipe_components():\n    return ['acme']\n",
            "yielded 'acme', which is no alignpipe.api.Component",
        ),
        (component_source("reward", "Bad-Name"), "ValueError: component name 'Bad-Name'"),
        (component_source("reward", "acme", api="(9, 0)"), "written for plugin API 9.0, this alignpipe has"),
        (
            component_source("reward", "acme", api="'2.0'"),
            "api of reward/acme must be a pair of whole numbers, (major, m",
        ),
        (component_source("reward", "acme", api="2"), "as in (1, 0), not 2"),
        (component_source("reward", "acme", api="('1', '0')"), "as in (1, 0), not ('1', '0')"),
        (
            "from alignpipe.api import hookimpl\n@hookimpl\ndef alignpipe_componets():\n    return []\n",
            "unknown hook 'alignpipe_componets'",
        ),
    ],
)
def test_a_broken_plugin_is_quarantined_with_one_line(
    source: str, reason: str, acme: None, install_fake_plugin: InstallFakePlugin, load: Loading
) -> None:
    broken(install_fake_plugin, source)
    registry = load()
    assert registry.options("reward") == ["acme"], "the others stay"
    (plugin,) = [plugin for plugin in registry.plugins if plugin.state == "broken"]
    assert reason in plugin.reason
    assert "\n" not in plugin.reason
    assert "Traceback" in plugin.traceback
    assert len(load.warnings) == 1
    assert "plugin 'oops' of oops-reward 1.0 is broken" in load.warnings[0]
    assert not registry.manager.has_plugin(plugin.id), "nothing half registered is left"


def test_strict_mode_raises(install_fake_plugin: InstallFakePlugin, load: Loading) -> None:
    broken(install_fake_plugin, "import not_there")
    with pytest.raises(PluginError, match=r"plugin 'oops' of oops-reward 1\.0 is broken.*not_there"):
        load(ALIGNPIPE_STRICT_PLUGINS="1")


def test_a_function_that_is_no_reward_yet_is_told_how_to_become_one(
    acme: None, install_fake_plugin: InstallFakePlugin, load: Loading
) -> None:
    install_fake_plugin("plain", {"plain": "plain_one:score"}, {"plain_one.py": "def score(samples):\n    return []\n"})
    registry = load()
    with pytest.raises(PluginError, match=r"plain_one:score is a plain function; put @reward \(alignpipe\.rewards\)"):
        registry.get("reward", "plain")
    assert "broken and left out" in load.warnings[0]


def test_a_hook_without_its_mark_would_not_be_called(install_fake_plugin: InstallFakePlugin, load: Loading) -> None:
    source = component_source("reward", "calm").replace("@hookimpl\n", "")
    install_fake_plugin("bare", {"calm": "bare.plugin"}, {"bare/plugin.py": source})
    with pytest.raises(PluginError, match=r"alignpipe_components of bare\.plugin is not marked: put @hookimpl"):
        load().get("reward", "calm")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("x = 1\n", "see alignpipe.api.hooks"),
        (
            "from alignpipe.rewards import reward\n@reward('calm')\ndef calm(samples):\n    return []\n",
            "name the reward in it, hookless:calm",
        ),
    ],
)
def test_a_module_without_a_hook_is_no_plugin(
    source: str, what: str, acme: None, install_fake_plugin: InstallFakePlugin, load: Loading
) -> None:
    install_fake_plugin("hookless", {"calm": "hookless"}, {"hookless.py": source})
    with pytest.raises(PluginError, match=rf"hookless has no hook \(alignpipe_components, or one .*; {what}"):
        load().get("reward", "calm")


@pytest.mark.parametrize("entry_point", ["acme", "reward.acme"])
def test_selecting_what_a_broken_plugin_would_offer_says_so(
    entry_point: str, install_fake_plugin: InstallFakePlugin, load: Loading
) -> None:
    broken(install_fake_plugin, "import not_there", entry_point)
    with pytest.raises(PluginError, match=r"reward=acme cannot be used: plugin .* is broken: ModuleNotFoundError"):
        load().get("reward", "acme")


def test_an_unknown_option_gets_the_nearest_and_the_list(acme: None, built_in: None, load: Loading) -> None:
    with pytest.raises(ConfigError, match=r"reward=acne: .*did you mean 'acme'\?.*options: acme, length"):
        load().get("reward", "acne")


def test_two_distributions_with_one_option_make_it_ambiguous(
    built_in: None, install_fake_plugin: InstallFakePlugin, load: Loading
) -> None:
    source = component_source("reward", "length")
    install_fake_plugin("aaa-dupe", {"dupe": "dupe.plugin"}, {"dupe/plugin.py": source}, "0.1")
    registry = load()
    assert registry.options("reward") == ["length"]
    with pytest.raises(PluginError) as raised:
        registry.get("reward", "length")
    message = str(raised.value)
    assert "alignpipe 9.9 (plugin 'length') and aaa-dupe 0.1 (plugin 'dupe')" in message
    assert "ALIGNPIPE_BLOCK_PLUGINS=aaa-dupe" in message
    assert load(ALIGNPIPE_BLOCK_PLUGINS="aaa-dupe").get("reward", "length").built_in


def test_equal_entry_point_names_of_two_distributions_both_load(
    acme: None, install_fake_plugin: InstallFakePlugin, load: Loading
) -> None:
    install_fake_plugin(
        "other", {"acme": "other_acme.plugin"}, {"other_acme/plugin.py": component_source("reward", "b")}
    )
    assert load().options("reward") == ["acme", "b"]


def test_a_distribution_found_twice_counts_once(
    acme: None, install_fake_plugin: InstallFakePlugin, load: Loading, tmp_path: Path
) -> None:
    source = component_source("reward", "acme")
    copy = {"acme_reward/plugin.py": source}
    install_fake_plugin("acme-reward", {"acme": "acme_reward.plugin"}, copy, "0.2", folder=tmp_path / "first")
    plugins = load().plugins
    assert [plugin.version for plugin in plugins] == ["0.2"], "the copy that is first on sys.path is the one imported"
    assert plugins[0].state == "ok"


def test_a_plugin_that_names_no_api_was_written_for_the_first(
    acme: None, load: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignpipe.registry.loader.API_VERSION", (2, 0))
    registry = load()
    assert registry.options("reward") == []
    assert "reward/acme was written for plugin API 1.0, this alignpipe has 2.0; install matching" in load.warnings[0]


def test_a_newer_minor_version_of_the_api_is_a_warning(install_fake_plugin: InstallFakePlugin, load: Loading) -> None:
    api = (API_VERSION[0], API_VERSION[1] + 5)
    install_fake_plugin(
        "new", {"new": "new_one.plugin"}, {"new_one/plugin.py": component_source("reward", "n", api=str(api))}
    )
    assert load().options("reward") == ["n"]
    assert "reward/n (plugin 'new' of new 1.0) was written for plugin API 1.5" in load.warnings[0]


@pytest.mark.parametrize(
    ("environ", "options"),
    [
        ({}, ["acme", "length"]),
        ({"ALIGNPIPE_PLUGINS": "alignpipe"}, ["length"]),
        ({"ALIGNPIPE_PLUGINS": ""}, ["length"]),
        ({"ALIGNPIPE_PLUGINS": "acme.reward"}, ["acme", "length"]),
        ({"ALIGNPIPE_PLUGINS": "acme-reward:acme, alignpipe:other"}, ["acme"]),
        ({"ALIGNPIPE_BLOCK_PLUGINS": "Acme_Reward"}, ["length"]),
        ({"ALIGNPIPE_BLOCK_PLUGINS": "acme-reward:acme,alignpipe:length"}, []),
    ],
)
def test_allow_and_block_lists(
    environ: dict[str, str], options: list[str], acme: None, built_in: None, load: Loading
) -> None:
    assert load(**environ).options("reward") == options


def test_a_blocked_plugin_is_not_imported_and_named_when_selected(acme: None, load: Loading) -> None:
    registry = load(ALIGNPIPE_BLOCK_PLUGINS="acme-reward")
    assert "acme_reward.plugin" not in sys.modules
    with pytest.raises(PluginError, match="is blocked: blocked by ALIGNPIPE_BLOCK_PLUGINS"):
        registry.get("reward", "acme")


def test_a_misspelt_name_in_a_list_is_a_warning(acme: None, load: Loading) -> None:
    load(ALIGNPIPE_BLOCK_PLUGINS="acme-rewrad")
    assert load.warnings == ["ALIGNPIPE_BLOCK_PLUGINS names 'acme-rewrad', but no such plugin is installed"]


def test_what_a_plugin_prints_at_import_stays_out_of_stdout(
    install_fake_plugin: InstallFakePlugin, load: Loading, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(install_fake_plugin, "print('hello')\n" + component_source("reward", "loud"))
    assert load().options("reward") == ["loud"]
    assert capsys.readouterr().out == ""


def test_lifecycle_hooks_reach_plugins(install_fake_plugin: InstallFakePlugin, load: Loading) -> None:
    source = (
        "from alignpipe.api import hookimpl\nseen = []\n"
        "@hookimpl\ndef alignpipe_metrics_logged(stage, step):\n    seen.append((stage, step))\n"
    )
    install_fake_plugin("watch", {"watch": "watching.plugin"}, {"watching/plugin.py": source})
    load().hook.alignpipe_metrics_logged(stage="ppo", metrics={}, step=3)
    assert sys.modules["watching.plugin"].seen == [("ppo", 3)]


def test_load_factory(acme: None, load: Loading) -> None:
    build = load_factory(load().get("reward", "acme"))
    assert build("config", None).config == "config"


@pytest.mark.parametrize(
    ("line", "message"),
    [("import not_there_either", "ModuleNotFoundError"), ("pass", "AttributeError"), ("build = 3", "cannot be called")],
)
def test_a_factory_that_cannot_be_had_names_plugin_and_distribution(
    line: str, message: str, install_fake_plugin: InstallFakePlugin, load: Loading
) -> None:
    source = component_source("reward", "late").replace("__name__ + ':build'", "'late.heavy:build'")
    install_fake_plugin("late-reward", {"late": "late.plugin"}, {"late/plugin.py": source, "late/heavy.py": line})
    with pytest.raises(PluginError, match=rf"reward/late \(late-reward 1\.0\), plugin 'late', .*{message}"):
        load_factory(load().get("reward", "late"))


def test_a_plugin_that_hangs_at_import_is_named(
    install_fake_plugin: InstallFakePlugin, load: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "PATIENCE", 0.05)
    slow = "import time\ntime.sleep(0.5)\n" + component_source("reward", "slow")
    install_fake_plugin("slow-reward", {"slow": "slow_one.plugin"}, {"slow_one/plugin.py": slow})
    quick = component_source("reward", "quick")
    install_fake_plugin("quick-reward", {"quick": "quick_one.plugin"}, {"quick_one/plugin.py": quick})
    assert load().options("reward") == ["quick", "slow"], "it is waited for: it may only be slow"
    (told,) = load.warnings
    assert told.startswith("plugin 'slow' of slow-reward is still being imported after 0.05 s")
    assert "ALIGNPIPE_BLOCK_PLUGINS=slow-reward" in told
    load.warnings.clear()
    assert load(ALIGNPIPE_BLOCK_PLUGINS="slow-reward").options("reward") == ["quick"]
    assert load.warnings == []
