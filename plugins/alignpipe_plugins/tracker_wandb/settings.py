"""What a W&B run is started with: mode, names, and the config without secrets. Does not import wandb."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alignpipe.api import RunInfo
from alignpipe.errors import ConfigError
from alignpipe.paths import user_path
from alignpipe_plugins.tracker_wandb.plugin import Mode, WandbConfig

_SECRET_KEY = re.compile(r"(?i)(^|_)(api_?key|token|secret|password|passwd|credentials?)$")
_URL_LOGIN = re.compile(r"(\w+://)[^/@\s]+@")
_REDACTED = "***"
_NOT_LOGGED = ("tracker", "outputs")
"""Top-level config keys that say where a run is logged, not what it computes."""
_NAME_LENGTH = 80


@dataclass(frozen=True)
class RunNames:
    """How the run appears in W&B; None leaves it to wandb, which then reads the environment."""

    project: str | None
    entity: str | None
    group: str | None
    name: str | None
    notes: str | None
    tags: tuple[str, ...] | None
    job_type: str | None
    folder: str | None
    """What wandb makes its own folder in."""


def resolve_mode(config: WandbConfig, environ: Mapping[str, str]) -> Mode:
    """The mode: as configured, else WANDB_MODE, else offline.

    Raises `ConfigError` for a WANDB_MODE that is not known here.
    """
    if config.mode is not None:
        return config.mode
    given = environ.get("WANDB_MODE", "").lower()
    if given in ("dryrun", ""):
        return Mode.offline
    if given == "run":
        return Mode.online
    if given not in Mode.__members__:
        raise ConfigError(f"WANDB_MODE={given}: allowed are {', '.join(Mode.__members__)} (or set tracker.wandb.mode)")
    return Mode[given]


def check_key(base_url: str, public: bool, environ: Mapping[str, str]) -> None:
    """Make sure that wandb will not ask for a login at `base_url`; `public` says that it is W&B's own service.

    Raises `ConfigError` if there is no key: neither WANDB_API_KEY, an identity token file, nor a netrc entry.
    """
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    # Keys stored for the public service's older address are still accepted for its newer one.
    hosts = [urlsplit(base_url).netloc, *(["api.wandb.ai"] if public else [])]
    path = user_path(environ.get("NETRC") or "~/.netrc")
    if path.is_file():
        try:
            entries = netrc.netrc(path)
        except netrc.NetrcParseError as error:
            raise ConfigError(f"tracker wandb: {path} cannot be read: {error}") from error
        if any(entries.authenticators(host) for host in hosts):
            return
    raise ConfigError(
        f"tracker wandb: the mode is online, but there is no key for {base_url}; set WANDB_API_KEY, run 'wandb login', "
        "or use tracker.wandb.mode=offline"
    )


def resolve_names(config: WandbConfig, info: RunInfo, environ: Mapping[str, str]) -> RunNames:
    """Each name: as configured, else left to wandb if its environment variable is set, else made from the run."""

    def choose(given: str | None, variable: str, made: str | None) -> str | None:
        return given or (None if environ.get(variable) else made)

    # The W&B sweep agent names the project and the run itself; what we gave would be another project's run.
    project = None if environ.get("WANDB_SWEEP_ID") else choose(config.project, "WANDB_PROJECT", "alignpipe")
    return RunNames(
        project=project,
        entity=config.entity,
        group=choose(config.group, "WANDB_RUN_GROUP", info.sweep),
        name=choose(config.run_name, "WANDB_NAME", _name(info) or info.folder.name),
        notes=config.notes,
        tags=tuple(config.tags) or None,
        job_type=choose(None, "WANDB_JOB_TYPE", "pipeline"),
        folder=choose(None, "WANDB_DIR", str(info.folder)),
    )


def given_id(info: RunInfo, environ: Mapping[str, str]) -> str | None:
    """The run's id, if there is one already: from the environment, or that of an earlier attempt.

    Raises `ConfigError` if all jobs of a sweep would have one id, and be one run to W&B.
    """
    run_id = environ.get("WANDB_RUN_ID")
    if run_id and info.swept:
        raise ConfigError(
            f"tracker wandb: WANDB_RUN_ID={run_id} is the name of one run, and this is a sweep of several; unset it"
        )
    return run_id or info.tracker_ids.get("wandb")


def _name(info: RunInfo) -> str:
    """The overrides, shortened; what differs within a sweep comes first, or else the job's folder comes last.

    Of a single run the last ones are kept: model and data come first, what is being tried comes last.
    """
    swept = " ".join(map(redact_override, info.swept))
    shared = " ".join(redact_override(override) for override in info.overrides if override not in info.swept)
    text = f"{swept} {shared}".strip()
    if info.sweep is None and len(text) > _NAME_LENGTH:
        kept = text[-(_NAME_LENGTH - len("... ")) :]
        return f"... {kept.partition(' ')[2] or kept}"  # whole overrides, if there is room for one
    if len(text) <= _NAME_LENGTH or 0 < len(swept) <= _NAME_LENGTH:
        return text[:_NAME_LENGTH].rstrip()
    job = f"... {info.folder.name[-_NAME_LENGTH // 2 :]}"
    return text[: _NAME_LENGTH - len(job)] + job


def run_config(info: RunInfo) -> dict[str, Any]:
    """The resolved config, pruned and without secrets, and beside it what identifies the run."""
    kept = {name: value for name, value in info.config.items() if name not in _NOT_LOGGED}
    about = {
        "run_key": info.run_key,
        "attempt": info.attempt,
        "stages": list(info.stages),
        "components": dict(info.components),
        "overrides": [redact_override(override) for override in info.overrides],
        "sweep": info.sweep,
    }
    return {**redact(kept), "alignpipe": about}


def redact(value: Any, key: str = "") -> Any:
    """A copy of plain data with the values of secret-looking keys and the logins in URLs taken out."""
    if isinstance(value, Mapping):
        return {str(name): redact(entry, str(name)) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact(entry, key) for entry in value]
    if isinstance(value, str):
        return _REDACTED if value and _SECRET_KEY.search(key) else _URL_LOGIN.sub(rf"\1{_REDACTED}@", value)
    return value


def redact_override(override: str) -> str:
    """An override of the command line, with a secret-looking value taken out."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{redact(value, key.rpartition('.')[2])}"


def settings(config: WandbConfig, environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings of wandb that we have a default for: as configured, else left to the environment, else ours."""
    ours = {
        "init_timeout": (config.init_timeout, 90.0),
        "finish_timeout": (config.finish_timeout, 60.0),
        "silent": (None, True),
        "console": (None, "off"),
    }
    chosen: dict[str, Any] = {}
    for name, (given, default) in ours.items():
        if given is not None:
            chosen[name] = given
        elif not environ.get(f"WANDB_{name.upper()}"):
            chosen[name] = default
    return chosen


def prepare_environment(mode: Mode) -> None:
    """Take away W&B's empty variables, which mean unset but not to wandb, and have its run file written at once.

    Written every fifteen seconds, as usual, a killed process leaves nothing, and what it has logged since then is
    missing for good: the next attempt takes it as told (a second of the tiny model is fifty rows). That setting is
    private: `wandb.Settings` of another version may refuse it, the environment never does. Of an offline run wandb's
    reports on itself (how long calls took, what failed) would go to the server all the same.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
        del os.environ[name]
    os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "0.1")
    if mode is Mode.offline:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def unsent(folders: Iterable[Path], run_id: str, environ: Mapping[str, str]) -> list[Path]:
    """The offline parts of a W&B run, in run folders and in WANDB_DIR, that are still to be sent; oldest first."""
    common = [Path(os.path.abspath(environ["WANDB_DIR"]))] if environ.get("WANDB_DIR") else []
    roots = [root / name for root in (*folders, *common) for name in ("wandb", ".wandb")]
    parts = dict.fromkeys(part for root in roots for part in root.glob(f"offline-run-*-{run_id}"))
    waiting = [part for part in parts if not list(part.glob("*.synced"))]
    return sorted(waiting, key=lambda part: part.name)  # which holds the time
