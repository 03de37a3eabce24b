"""`alignpipe plugins check`: whether a reward keeps the contract, with a verdict in words."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignpipe.api import Sample
from alignpipe.authoring.candidate import Candidate
from alignpipe.authoring.checks import CHECKS, verdict
from alignpipe.authoring.choosing import choose
from alignpipe.authoring.rows import Pairs, Raw, read
from alignpipe.cli.tables import show_table
from alignpipe.errors import ConfigError, PluginError
from alignpipe.registry import Registered, Registry, did_you_mean, normalise, registry


def main(argv: Sequence[str]) -> int:
    """Check every reward that the first word stands for; 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="alignpipe plugins check", description="Does a reward keep the contract?")
    parser.add_argument("what", metavar="NAME", help="a distribution, an entry point, or reward/option")
    parser.add_argument("overrides", nargs="*", help="reward.<key>=<value>")
    parser.add_argument("--data", type=Path, metavar="FILE", help="samples or pairs to try it on, as for 'score'")
    arguments = parser.parse_intermixed_args(list(argv))
    rewards = rewards_named(arguments.what, registry())
    if len(rewards) > 1 and arguments.overrides:
        names = ", ".join(f"reward/{entry.component.name}" for entry in rewards)
        raise ConfigError(f"{arguments.what} brings {names}; check one of them to give it options")
    samples, rows = _data(arguments.data)
    failed = 0
    for registered in rewards:
        chosen = choose(registered.component.name, arguments.overrides)
        sys.stdout.write(f"{registered}\n\n")
        with tempfile.TemporaryDirectory(prefix="alignpipe-check-") as folder:
            candidate = Candidate(chosen, Path(folder), samples, rows)
            verdicts = [verdict(name, candidate) for name in CHECKS]
        show_table(("check", "verdict", "why"), [(found.check, found.outcome, found.why) for found in verdicts])
        wrong = [found.check for found in verdicts if found.outcome == "failed"]
        failed += bool(wrong)
        keeps = f"does not keep the contract: {', '.join(wrong)}" if wrong else "keeps the contract"
        sys.stdout.write(f"\nreward/{registered.component.name} {keeps}\n")
    return 1 if failed else 0


def rewards_named(what: str, known: Registry) -> list[Registered]:
    """The rewards that an option (`reward/acme` or `acme`), an entry point or a distribution stands for.

    Raises `PluginError` for a plugin that is broken or blocked, `ConfigError` for what is not there or is no reward.
    """
    group, slash, name = what.partition("/")
    if slash:
        if group != "reward":
            raise ConfigError(f"plugins check {what}: only rewards are checked, as in reward/{name}")
        return [known.get("reward", name)]
    if known.offers("reward", what):
        return [known.get("reward", what)]
    plugins = [
        plugin for plugin in known.plugins if what in (plugin.name, plugin.id) or normalise(what) == plugin.distribution
    ]
    rewards = [entry for plugin in plugins for entry in plugin.components if entry.component.group == "reward"]
    absent = next((plugin for plugin in plugins if plugin.state != "ok"), None)
    if absent is not None and not rewards:
        raise PluginError(
            f"{absent} is {absent.state}: {absent.reason}; 'alignpipe plugins show {absent.id}' says more"
        )
    if not rewards:
        names = {*known.options("reward"), *(plugin.distribution for plugin in known.plugins)}
        told = "it brings no reward" if plugins else f"nothing of this name is installed{did_you_mean(what, names)}"
        raise ConfigError(f"plugins check {what}: {told}; see 'alignpipe plugins list'")
    return [known.get("reward", entry.component.name) for entry in rewards]


def _data(path: Path | None) -> tuple[list[Sample] | None, list[Raw] | None]:
    """The samples to try it on, and the pairs to train it on."""
    if path is None:
        return None, None
    found = read(path)
    if isinstance(found, Pairs):
        return [*found.side("chosen"), *found.side("rejected")], list(found.rows)
    return list(found.samples), None
