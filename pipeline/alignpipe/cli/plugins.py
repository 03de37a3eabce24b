"""`alignpipe plugins list | show | check | new`: what is installed, who brought it, what can be set; for authors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

from alignpipe.api import SLOTS, Port
from alignpipe.errors import ConfigError, did_you_mean
from alignpipe.registry import Plugin, Registered, Registry, normalise, registry
from alignpipe.rewards import RewardPlugin
from alignpipe.tables import show_table


def main(argv: list[str]) -> int:
    """Run `plugins <list|show|check|new>`; 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="alignpipe plugins", description="the options that plugins bring")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|check|new")
    listing = actions.add_parser("list", help="every option, who brings it, and the plugins that are broken")
    listing.add_argument("--timings", action="store_true", help="show what importing each plugin costs")
    showing = actions.add_parser(
        "show", help="the keys of one option, what a distribution brings, or why a plugin is broken"
    )
    showing.add_argument("what", metavar="NAME", help="reward/length, a distribution, or distribution:plugin")
    # These two read their own words; here they are for --help.
    actions.add_parser("check", help="whether a reward keeps the contract; status 1 if it does not")
    actions.add_parser("new", help="write a package that brings a reward: installable, with a test")
    if argv[:1] == ["check"]:
        from alignpipe.cli.check import main as check

        return check(argv[1:])
    if argv[:1] == ["new"]:
        from alignpipe.cli.new import main as new

        return new(argv[1:])
    arguments = parser.parse_args(argv)
    if arguments.action == "show":
        show(arguments.what, registry())
    elif arguments.timings:
        show_timings(registry())
    else:
        list_options(registry())
    return 0


def list_options(known: Registry) -> None:
    """The options, ambiguous ones marked, then the plugins that brought nothing."""
    groups = [group for group in SLOTS if group in known.groups()]
    groups += [group for group in known.groups() if group not in SLOTS]
    rows = []
    for group in groups:
        for name in known.options(group):
            offers = known.offers(group, name)
            for offer in offers:
                mark = "AMBIGUOUS: " if len(offers) > 1 else ""
                rows.append((group, name, mark + offer.component.summary, offer.distribution, offer.version))
    show_table(("group", "option", "summary", "distribution", "version"), rows)
    absent = [plugin for plugin in known.plugins if plugin.state != "ok"]
    if absent:
        sys.stdout.write("\n")
        reasons = [(plugin.id, plugin.version, plugin.state, plugin.reason) for plugin in absent]
        show_table(("plugin", "version", "state", "reason"), reasons)
        if any(plugin.state == "broken" for plugin in absent):
            sys.stdout.write("\n'alignpipe plugins show DISTRIBUTION:PLUGIN' shows a broken plugin's traceback\n")


def show_timings(known: Registry) -> None:
    """The plugins, the slowest import first."""
    plugins = sorted(known.plugins, key=lambda plugin: -plugin.seconds)
    rows = [(plugin.id, plugin.version, plugin.state, f"{plugin.seconds * 1000:.1f} ms") for plugin in plugins]
    show_table(("plugin", "version", "state", "import"), rows)


def show(what: str, known: Registry) -> None:
    """One option in full, every offer of an ambiguous one; what a distribution brings; a broken plugin's traceback.

    Raises `ConfigError` if there is nothing of this name.
    """
    group, slash, name = what.partition("/")
    brought = [plugin for plugin in known.plugins if plugin.distribution == normalise(what)]
    if brought:
        _show_distribution(brought)
        return
    plugin = known.absent(group, name) if slash else next((entry for entry in known.plugins if entry.id == what), None)
    offers = known.offers(group, name) if slash else plugin.components if plugin else ()
    if not offers and plugin is None:
        names = [f"{group}/{option}" for group in known.groups() for option in known.options(group)]
        names += [entry.id for entry in known.plugins if entry.state != "ok"]
        names += sorted({entry.distribution for entry in known.plugins})
        raise ConfigError(f"{what}: there is no such option{did_you_mean(what, names)}; see 'alignpipe plugins list'")
    for offer in offers:
        _show_option(offer)
    if len(offers) > 1 and slash:
        sys.stdout.write(f"{what} is AMBIGUOUS: block one of these distributions with ALIGNPIPE_BLOCK_PLUGINS\n")
    if not offers and plugin is not None:
        _show_plugin(plugin)


def _show_distribution(plugins: Sequence[Plugin]) -> None:
    """What the plugins of one distribution offer, and what is wrong with those that offer nothing."""
    sys.stdout.write(f"{plugins[0].distribution} {plugins[0].version}\n\n")
    rows = []
    for plugin in plugins:
        offers = [(f"{one.component.group}/{one.component.name}", one.component.summary) for one in plugin.components]
        nothing = "no options" if plugin.state == "ok" else f"{plugin.state}: {plugin.reason}"
        rows += [(option, summary, plugin.name) for option, summary in offers or [("-", nothing)]]
    show_table(("option", "summary", "plugin"), sorted(rows))
    sys.stdout.write("\n'alignpipe plugins show GROUP/OPTION' shows the keys of one\n")


def _show_plugin(plugin: Plugin) -> None:
    """Why a plugin offers no options."""
    reason = "is loaded and offers no options" if plugin.state == "ok" else f"is {plugin.state}: {plugin.reason}"
    sys.stdout.write(f"{plugin} {reason}\n")
    if plugin.traceback:
        sys.stdout.write(f"\n{plugin.traceback}")


def _show_option(offer: Registered) -> None:
    component = offer.component
    facts = [
        ("summary", component.summary),
        ("distribution", offer.provider),
        ("plugin", offer.plugin),
        ("component version", str(component.version)),
        ("factory", component.factory),
        ("makes", component.makes or ("reward" if component.group == "reward" else "-")),
        ("reads slots", ", ".join(component.uses) or "-"),
        ("requires", ", ".join(component.requires) or "-"),
        *_columns(offer),
        *((f"input {name}", _port(port)) for name, port in component.needs.items()),
    ]
    show_table((f"{component.group}/{component.name}", ""), facts)
    sys.stdout.write("\n")
    rows = list(_fields(component.config, ""))
    if rows:
        show_table(("key", "type", "default", "meaning"), rows)
        sys.stdout.write("\n")
    else:
        sys.stdout.write("no keys\n\n")


def _columns(offer: Registered) -> list[tuple[str, str]]:
    """The columns of the prompt row that a reward made by `@reward` says it reads; others say it by their options."""
    module, _, attribute = offer.component.factory.partition(":")
    if offer.component.group != "reward" or module not in sys.modules:  # what is not imported yet may be heavy
        return []
    made = getattr(sys.modules[module], attribute, None)
    if not isinstance(made, RewardPlugin):
        return []
    columns = made.columns or getattr(made.target, "columns", ())
    if not isinstance(columns, Mapping | list | tuple):  # a property, which knows it once the reward is built
        return []
    shown = [f"{name} (such as {columns[name]!r:.60})" if isinstance(columns, Mapping) else name for name in columns]
    return [("reads columns", ", ".join(shown) or "-")]


def _port(port: Port) -> str:
    tables = f" with {', '.join(f'{table} ({split})' for table, split in port.tables)}" if port.tables else ""
    empty = "" if port.required else ", may be empty"
    return f"{port.kind}{tables}, from {port.default.replace('_', ' ')}{empty}"


def _fields(config: type[Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every field, nested dataclasses unfolded."""
    for entry in fields(config):
        default = _default(entry)
        meaning = str(entry.metadata.get("help", ""))
        if is_dataclass(default):
            if meaning:
                yield f"{prefix}{entry.name}", _type(entry), "(see below)", meaning
            yield from _fields(type(default), f"{prefix}{entry.name}.")
            continue
        if isinstance(default, Enum):
            choices = ", ".join(member.name for member in type(default))
            meaning = f"{meaning} ({choices})" if meaning else choices
        yield f"{prefix}{entry.name}", _type(entry), _text(default), meaning


def _default(entry: Field[Any]) -> Any:
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return entry.default


def _type(entry: Field[Any]) -> str:
    declared = entry.type
    return declared.__name__ if isinstance(declared, type) else str(declared).replace("typing.", "")


def _text(value: Any) -> str:
    """A default as it would be written on the command line."""
    if value is MISSING or value == "???":
        return "(must be given)"
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" else "''"
