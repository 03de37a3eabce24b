"""The subcommands: what each is for, who runs it and which words complete it. Everything else is a Hydra override."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise


@dataclass(frozen=True)
class Command:
    """A subcommand. `target` is `module:function`, called with the words after the command; it returns the exit status.

    `words` gives what may come next after the words typed so far; without it overrides follow, which Hydra completes.
    """

    name: str
    target: str
    words: Callable[[Sequence[str]], Sequence[str]] | None = None

    def run(self, argv: list[str]) -> int:
        """Import the command's module, which may be heavy, and run it."""
        module, _, function = self.target.partition(":")
        status: int = getattr(importlib.import_module(module), function)(argv)
        return status


def _plugins_words(typed: Sequence[str]) -> Sequence[str]:
    from alignpipe.registry import registry

    if not typed:
        return ("list", "show", "check", "new")
    if typed == ["list"]:
        return ("--timings",)
    if typed == ["show"]:
        return [f"{group}/{name}" for group in registry().groups() for name in registry().options(group)]
    if typed[0] == "check":
        rewards = [f"reward/{name}" for name in registry().options("reward")]
        return (
            [*rewards, *_with_rewards()]
            if len(typed) == 1
            else ["--data", *_reward_keys(typed[1].removeprefix("reward/"))]
        )
    if typed[0] == "new":
        return ("reward",) if len(typed) == 1 else ("--from", "--folder") if len(typed) > 2 else ()
    return ()


def _with_rewards() -> Sequence[str]:
    """The distributions that bring a reward."""
    from alignpipe.registry import registry

    plugins = registry().plugins
    return sorted(
        {one.distribution for one in plugins for entry in one.components if entry.component.group == "reward"}
    )


def _score_words(typed: Sequence[str]) -> Sequence[str]:
    """The flags, the rewards after `--reward`, and the keys of the one that was named."""
    from alignpipe.registry import registry

    if typed and typed[-1] in ("--data", "--run", "--out"):
        return ()
    if typed and typed[-1] == "--reward":
        return registry().options("reward")
    named = [word for flag, word in pairwise(typed) if flag == "--reward"]
    flags = [flag for flag in ("--reward", "--data", "--run", "--out") if flag not in typed]
    return [*flags, *(_reward_keys(named[-1]) if named else ())]


def _reward_keys(option: str) -> Sequence[str]:
    """`reward.<key>=` of an option; none for a name that is not (or not only) one."""
    from alignpipe.registry import registry

    offers = registry().offers("reward", option)
    return [f"reward.{entry.name}=" for entry in fields(offers[0].component.config)] if len(offers) == 1 else []


def _store_words(typed: Sequence[str]) -> Sequence[str]:
    if not typed:
        return ("ls", "verify", "gc", "pin", "unpin")
    return ("--outputs", "--yes", "--days") if typed[0] == "gc" else ("--outputs",)


COMMANDS = {
    command.name: command
    for command in (
        Command("plan", "alignpipe.cli.plan:main"),
        Command("compare", "alignpipe.cli.compare:main", lambda typed: ("--out",)),
        Command("plugins", "alignpipe.cli.plugins:main", _plugins_words),
        Command("score", "alignpipe.cli.score:main", _score_words),
        Command("store", "alignpipe.cli.store:main", _store_words),
    )
}


def is_override(word: str) -> bool:
    """Whether a first word is for Hydra: an override holds `=` or starts with `~` or `+`, a flag starts with `-`."""
    return "=" in word or word.startswith(("~", "+", "-"))
