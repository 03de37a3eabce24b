"""`alignpipe plugins check`: whether a reward keeps the contract, with a verdict in words."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignpipe.authoring.candidate import Candidate
from alignpipe.authoring.checks import CHECKS, verdict
from alignpipe.authoring.reward_choice import Chosen, choose
from alignpipe.authoring.rows import Data, read
from alignpipe.errors import ConfigError, PluginError, did_you_mean
from alignpipe.registry import Registered, Registry, normalise, registry


def main(argv: Sequence[str]) -> int:
    """Check every reward that the first word stands for; 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="alignpipe plugins check", description="Does a reward keep the contract?")
    parser.add_argument("what", metavar="NAME", help="a distribution, an entry point, or reward/option")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="reward.<key>=<value>; scoring.deadline=<seconds> that a batch may take here (30 if not given; of scoring "
        "only this is taken, everything is asked once); seed=, device=",
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="samples or pairs to try it on, as for 'score'")
    arguments = parser.parse_intermixed_args(list(argv))
    rewards = rewards_named(arguments.what, registry())
    if len(rewards) > 1 and arguments.overrides:
        names = ", ".join(f"reward/{entry.component.name}" for entry in rewards)
        raise ConfigError(f"{arguments.what} brings {names}; check one of them to give it options")
    data = read(arguments.data) if arguments.data else None
    failed = False
    for registered in rewards:
        sys.stdout.write(f"{registered}\n\n")
        try:
            chosen = choose(registered.component.name, arguments.overrides)
        except (ConfigError, PluginError) as error:
            if len(rewards) == 1:
                raise
            sys.stdout.write(f"not checked: {error}; check it by itself\n\n")
            failed = True
            continue
        failed |= not _keeps_contract(chosen, data)
    return int(failed)


def _keeps_contract(chosen: Chosen, data: Data | None) -> bool:
    """Print every check's verdict as it is found, and what they come to."""
    with tempfile.TemporaryDirectory(prefix="alignpipe-check-") as folder:
        samples, pairs = (None, None) if data is None else (data.samples, data.pairs or None)
        candidate = Candidate(chosen, Path(folder), samples, pairs, _say)
        _say(_line("check", "verdict", "why"))
        verdicts = []
        for name in CHECKS:
            found = verdict(name, candidate)
            verdicts.append(found)
            _say(_line(found.check, found.outcome, found.why))
    outcomes = {
        outcome: ", ".join(found.check for found in verdicts if found.outcome == outcome)
        for outcome in ("failed", "skipped")
    }
    if outcomes["failed"]:
        result = f"does not keep the contract: {outcomes['failed']}"
    elif outcomes["skipped"]:
        result = f"keeps the contract as far as it was tried; skipped: {outcomes['skipped']}"
    else:
        result = "keeps the contract"
    sys.stdout.write(f"\nreward/{chosen.selected.name} {result}\n\n")
    return not outcomes["failed"]


def _line(check: str, outcome: str, why: str) -> str:
    return f"{check:<{max(map(len, CHECKS))}}  {outcome:<7}  {why}"


def _say(line: str) -> None:
    """A line at once: the next check may take long."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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
        problem = "it brings no reward" if plugins else f"nothing of this name is installed{did_you_mean(what, names)}"
        raise ConfigError(f"plugins check {what}: {problem}; see 'alignpipe plugins list'")
    return [known.get("reward", entry.component.name) for entry in rewards]
