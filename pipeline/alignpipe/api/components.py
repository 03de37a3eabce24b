"""What a plugin yields: frozen records that say which option fills which slot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

API_VERSION = (1, 0)
"""The version of this contract: (major, minor). Another major is refused, a newer minor is warned about."""

SLOTS = ("data", "sft", "reward", "ppo", "eval", "model", "tracker", "rollout")
"""alignpipe's own slots, each filled from the group of its name; third parties may add more."""

Kind = Literal["dataset", "policy", "reward", "report"]
"""What an artifact is."""

PortDefault = Literal["nearest", "nearest_or_base", "base", "first", "policy", "none"]
"""What feeds a port by default (see :class:`Port`)."""

Table = Literal["demonstrations", "preferences", "prompts"]
"""A table of a dataset (`alignpipe/dataset.py`)."""

Split = Literal["train", "heldout"]
"""A part of a table."""

Requirement = Literal["gpu", "network", "sandbox"]
"""What a component may need of the machine it runs on."""

NO_GROUPS = (
    *("seed", "stages", "inputs", "outputs", "device", "threads", "processes", "lanes", "kernels", "scoring"),
    *("code_change", "objective", "hydra", "experiment", "scale"),
)
"""What means something else in the config: run settings, Hydra's own part, overlays."""

_OPTION_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Port:
    """One named input of a stage.

    Raises `ValueError` for a kind, a default or a part that is not known, and for tables of anything but a dataset.
    """

    kind: Kind
    default: PortDefault = "nearest"
    """What feeds the port where `inputs.<stage>.<port>` is not set:

    - `nearest`: the nearest earlier stage that makes the kind. If none does: for datasets and rewards what the nearest
      earlier stage that reads one is given, for policies nothing
    - `nearest_or_base`: the nearest earlier stage that makes the kind, else the run's base model
    - `base`: the run's base model
    - `first`: the first policy of the run, unless it feeds the stage's port `policy` already (the baseline of eval)
    - `policy`: whatever feeds the stage's port `policy` (the reference of ppo)
    - `none`: nothing
    """
    required: bool = True
    tables: tuple[tuple[Table, Split], ...] = ()
    """The parts of a dataset without which the stage cannot work, as in `("preferences", "train")`: data that lacks one
    is refused before any other stage works for hours."""

    def __post_init__(self) -> None:
        for what, value, there in (("kind", self.kind, Kind), ("default", self.default, PortDefault)):
            if value not in get_args(there):
                raise ValueError(f"the {what} of a port is one of {', '.join(get_args(there))}, not {value!r}")
        if self.tables and self.kind != "dataset":
            raise ValueError(f"a port with tables is one for a dataset, not for a {self.kind}")
        known = [(table, split) for table in get_args(Table) for split in get_args(Split)]
        for part in self.tables:
            if part not in known:
                raise ValueError(f"tables of a port are pairs as {known[0]!r}, not {part!r}; there are {known}")


@dataclass(frozen=True)
class Component:
    """One option of one config group.

    Raises `ValueError` for a name Hydra's grammar cannot take, a config that is no dataclass or that has a field `name`
    (the option's name is put there), a factory that is not `module:attribute`, an `api` that is no pair of numbers, a
    group that is a key of its own in the config, and what else is not of the type that its field has.
    """

    group: str
    name: str
    config: type[Any]
    """A dataclass whose fields are the options, defaults included. It may have `revision()`, the state of
    what the options name outside themselves (`plan/keys.py`), and `check_machine()`, which refuses a machine."""
    factory: str
    """`"module:attribute"`, called as `factory(config, context)`: :class:`~alignpipe.api.stages.BuildContext`."""
    summary: str
    version: int = 1
    """To be raised whenever the result for the same config changes."""
    api: tuple[int, int] = (1, 0)
    """The version of this contract that it was written for. Who names none wrote for the first, whatever is at hand."""
    needs: Mapping[str, Port] = field(default_factory=dict)
    """The input ports, by name."""
    makes: Kind | None = None
    """The kind of its artifact; None for what is no stage. Rewards may leave it out: the core wraps each in its one
    reward stage (`rewarding/stage.py`), which makes it."""
    uses: tuple[str, ...] = ()
    """The other slots whose config it reads; they enter the stage's key."""
    parallel: bool = False
    """Whether all processes of a launch run the stage together (`ctx.rank`, `ctx.world_size`), not rank 0 alone."""
    requires: tuple[Requirement, ...] = ()
    """What the machine must have: a run without a GPU refuses what needs one, `plugins show` tells the rest."""

    def __post_init__(self) -> None:
        for what, value in (("group", self.group), ("name", self.name)):
            if not _OPTION_NAME.fullmatch(value):
                raise ValueError(f"component {what} {value!r} must match [a-z][a-z0-9_]*")
        if not (isinstance(self.config, type) and is_dataclass(self.config)):
            raise ValueError(f"config of {self.group}/{self.name} must be a dataclass, not {self.config!r}")
        if any(entry.name == "name" for entry in fields(self.config)):
            raise ValueError(
                f"config of {self.group}/{self.name} must not have a field 'name': the option's name goes there"
            )
        if not (isinstance(self.api, tuple) and len(self.api) == 2 and all(type(part) is int for part in self.api)):
            raise ValueError(
                f"api of {self.group}/{self.name} must be a pair of whole numbers, (major, minor) as in "
                f"{API_VERSION}, not {self.api!r}"
            )
        self._check_types()
        unknown = [need for need in self.requires if need not in get_args(Requirement)]
        if unknown:
            known = ", ".join(get_args(Requirement))
            raise ValueError(f"{self.group}/{self.name} requires {unknown[0]!r}; what can be required: {known}")
        if not re.fullmatch(r"[\w.]+:\w+", self.factory):
            raise ValueError(f"factory of {self.group}/{self.name} must be 'module:attribute', not {self.factory!r}")

    def _check_types(self) -> None:
        if self.group in NO_GROUPS:
            raise ValueError(f"component group {self.group!r} is a key of the config itself; choose another name")
        what = f"{self.group}/{self.name}"
        if type(self.version) is not int:
            raise ValueError(f"version of {what} must be a whole number, not {self.version!r}")
        if self.makes is not None and self.makes not in get_args(Kind):
            raise ValueError(f"{what} makes one of {', '.join(get_args(Kind))} or None, not {self.makes!r}")
        for name, value in (("uses", self.uses), ("requires", self.requires)):
            if isinstance(value, str):
                raise ValueError(f"{name} of {what} must be a tuple of names, such as ({value!r},)")
        for name, port in self.needs.items():
            if not isinstance(port, Port):
                raise ValueError(f"needs of {what} holds ports by name: {name!r} must be a Port, not {port!r}")


@dataclass(frozen=True)
class Selected:
    """A choice made in the config: an option of a group, and `config`, an instance of its dataclass."""

    group: str
    name: str
    config: Any
