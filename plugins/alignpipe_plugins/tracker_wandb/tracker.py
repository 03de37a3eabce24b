"""The tracker: one W&B run per job, a step axis per stage, and no way for W&B's troubles to reach the training."""

from __future__ import annotations

import json
import math
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignpipe.api import Artifact, BuildContext, RunInfo
from alignpipe.api.tracking import Level, Status
from alignpipe.errors import ConfigError
from alignpipe_plugins.tracker_wandb.plugin import Mode, WandbConfig
from alignpipe_plugins.tracker_wandb.sender import Call, Sender, say
from alignpipe_plugins.tracker_wandb.settings import (
    check_key,
    given_id,
    prepare_environment,
    redact_override,
    resolve_mode,
    resolve_names,
    run_config,
    settings,
    unsent,
)

if TYPE_CHECKING:
    from wandb import Table
    from wandb.sdk.wandb_run import Run

_EXIT_CODES: Mapping[Status, int] = {"finished": 0, "failed": 1, "interrupted": 130}
_TIMINGS = {"time", "perf"}
"""The groups of metrics that tell how long something took: stages log them behind all others of a step."""


class WandbTracker:
    """Logs to one W&B run.

    Raises `ConfigError` when built if the run is to be online and there is no key: nothing ever asks for a login.
    """

    def __init__(self, config: WandbConfig, ctx: BuildContext) -> None:
        self._config = config
        self._mode = resolve_mode(config, os.environ)
        self._sender: Sender | None = None
        self._earlier: list[Path] = []
        """Parts of the run that earlier attempts left to be sent."""
        self._stages: set[str] = set()
        self._row: dict[str, float] = {}
        self._at: tuple[str, int] | None = None
        if self._mode is not Mode.disabled:
            prepare_environment(self._mode)
        if self._mode is Mode.online:
            import wandb

            try:
                base_url = wandb.setup().settings.base_url  # the environment's, that of `wandb login --host`, or
                public = wandb.Settings().base_url
            except ValueError as error:
                raise _refusal(error) from error
            check_key(base_url, base_url == public, os.environ)

    def start(self, info: RunInfo) -> str | None:
        """Open the run, or go on with the one an earlier attempt opened; gives its id.

        A server that cannot be reached means going on offline. Raises `ConfigError` for what wandb refuses by itself:
        a name, a key, a setting of the environment.
        """
        if self._mode is Mode.disabled:
            return None
        import wandb

        run_id = given_id(info, os.environ) or secrets.token_hex(4)
        self._earlier = unsent(info.earlier.get("wandb", ()), run_id, os.environ)
        try:
            self._sender = Sender(self._open(info, run_id))
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError, ValueError) as error:
            raise _refusal(error) from error
        except Exception as error:
            if self._mode is not Mode.online:
                raise
            say(f"W&B cannot be reached ({type(error).__name__}: {error}); the run is logged offline")
            wandb.teardown()
            self._mode = Mode.offline
            self._sender = Sender(self._open(info, run_id))
        return run_id

    def log(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics; what belongs to one step of a stage is one row, which its timings end, if there are any.

        If the next one ended it, it would be seen late, with that one's time, and be lost where a process is killed.
        """
        if self._sender is None:
            return
        if self._at != (stage, step):
            self._send_row()
            self._at = (stage, step)
        # Plain numbers: the values are sent later, and a tensor may hold something else by then.
        self._row.update({f"{stage}/{name}": _plain(value) for name, value in metrics.items()})
        if any(_TIMINGS & set(name.split("/")[:-1]) for name in metrics):
            self._send_row()

    def alert(self, title: str, text: str, level: Level) -> None:
        """Send a W&B alert: a mail or a Slack message, as the user's W&B settings have it."""
        self._call(lambda run: run.alert(title=title, text=text, level=level.upper()))

    def artifact(self, artifact: Artifact) -> None:
        """Note the digest of a stage's result in the run's summary; send an evaluation's samples, if that is wished."""
        self._send_row()
        self._call(lambda run: run.summary.update({f"artifact/{artifact.stage}": artifact.digest}))
        path = artifact.folder / "samples.jsonl"
        if artifact.kind == "report" and self._config.samples and path.is_file():
            with path.open(encoding="utf-8") as file:
                rows = [json.loads(line) for line in islice(file, self._config.samples)]
            self._call(lambda run: run.log({f"{artifact.stage}/samples": _table(rows), f"{artifact.stage}/step": 0}))

    def summary(self, values: Mapping[str, float]) -> None:
        """Record the final figures."""
        self._send_row()
        # wandb would empty the cell of a NaN, which has the one of the last row by now.
        final = {name: value for name, value in values.items() if not math.isnan(value)}
        self._call(lambda run: run.summary.update(final))

    def finish(self, status: Status) -> str | None:
        """Close the run; gives its address, or the command that sends an offline run."""
        if self._sender is None:
            return None
        self._send_row()
        run, self._sender = self._sender.close(), None
        offline = self._mode is Mode.offline
        parts = [*map(str, self._earlier), *([run.settings.sync_dir] if offline else [])]
        sync = shlex.join(["wandb", "sync", *parts])
        lines = [*([] if offline else [f"W&B  {run.url}"]), *([f"W&B  {sync}"] if parts else [])]
        try:
            if status == "interrupted" and not offline:
                run.mark_preempting()
            run.finish(exit_code=_EXIT_CODES[status])
        except Exception as error:  # what it was told before can be sent all the same
            say(f"W&B could not close the run ({type(error).__name__}: {error}); metrics.jsonl has everything")
            _start_afresh(_EXIT_CODES[status])
        return "\n".join(lines)

    def _open(self, info: RunInfo, run_id: str) -> Run:
        import wandb

        names = resolve_names(self._config, info, os.environ)
        # wandb uploads the command line with its metadata; if that holds a secret, the metadata stays here.
        secret = any(redact_override(override) != override for override in info.overrides)
        chosen = wandb.Settings(**settings(self._config, os.environ), x_disable_meta=secret)
        run = wandb.init(
            mode=self._mode.value,
            id=run_id,
            resume="allow" if self._mode is Mode.online and not os.environ.get("WANDB_RESUME") else None,
            # The default would hand out an earlier job's unfinished run in the same process.
            reinit="create_new",
            job_type=names.job_type,
            project=names.project,
            entity=names.entity,
            group=names.group,
            name=names.name,
            notes=names.notes,
            tags=names.tags,
            config=run_config(info),
            dir=names.folder,
            settings=chosen,
        )
        self._stages.clear()
        return run

    def _send_row(self) -> None:
        """Send the row that is complete; never with `step=`, since each stage counts its own steps from 0."""
        if not self._row or self._at is None:
            return
        (stage, step), row = self._at, self._row
        self._at, self._row = None, {}
        if stage not in self._stages:
            self._stages.add(stage)
            self._call(lambda run: run.define_metric(f"{stage}/step", hidden=True))
            self._call(lambda run: run.define_metric(f"{stage}/*", step_metric=f"{stage}/step"))
        self._call(lambda run: run.log({**row, f"{stage}/step": step}))

    def _call(self, call: Call) -> None:
        if self._sender is not None:
            self._sender.send(call)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as a W&B table, which wants values of one kind in a column; what is not there is None."""
    import wandb

    columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
    return wandb.Table(columns=columns, data=[[row.get(str(name)) for name in columns] for row in rows])


def _start_afresh(code: int) -> None:
    """Have the next run of this process (a sweep's next job) not meet a wandb that has died."""
    import wandb

    with suppress(Exception, SystemExit):
        wandb.teardown(code)


def _plain(value: float) -> float:
    return value if type(value) in (int, float) else float(value)


def _refusal(error: Exception) -> ConfigError:
    """What wandb says of a value that it does not take; most come from the environment."""
    told = " ".join(str(error).partition("For further information")[0].split())
    return ConfigError(
        f"tracker wandb: wandb refuses an option or an environment variable (WANDB_...): {told}; mend it, or use "
        "tracker.wandb.mode=disabled"
    )
