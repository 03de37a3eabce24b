"""Rank 0's side of a run of several processes: it tells the others which stages to take part in, and when it ends."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from alignpipe.config.convert import as_yaml
from alignpipe.config.model import RunConfig
from alignpipe.errors import ProcessError
from alignpipe.plan import Decision
from alignpipe.processes import Process
from alignpipe.runner.launching import Helpers
from alignpipe.runner.messages import Messages, connect


class Crew:
    """The other processes; of a run of one process there are none.

    Those of a launcher are there from the start; `helpers`, which the run starts itself, once a stage needs them.
    """

    def __init__(self, run: RunConfig, process: Process, messages: Messages | None, helpers: Helpers | None) -> None:
        self.process = process
        self._run = run
        self._messages = messages
        self._helpers = helpers
        self._prepared = False
        self._cut_short = False
        """Whether this process left a stage by a second signal, while the others go on with it."""

    def size(self, decision: Decision) -> int:
        """How many processes run this stage together."""
        return self.process.world_size if decision.spec.registered.component.parallel else 1

    def prepare(self, decisions: Sequence[Decision]) -> None:
        """Have the others import the code of the stages that will work, while this process prepares the run."""
        working = [each.spec for each in decisions if each.action != "hit" and self.size(each) > 1]
        needed = dict.fromkeys(
            (part.component.group, part.component.name) for spec in working for part in spec.components
        )
        if needed:
            self._connected().post({"do": "load", "components": list(needed), "config": parts_of(self._run)})
            self._prepared = True

    def _connected(self) -> Messages:
        """The way to the others, who are started if they are not there."""
        if self._messages is None:
            assert self._helpers is not None  # else there is one process
            self._helpers.start()
            self._messages = connect(self.process)
        return self._messages

    @contextmanager
    def taking_part(self, decision: Decision, work: Path) -> Iterator[None]:
        """Have the others run the stage too while the block runs, if it is written for that.

        Raises `ProcessError` with the reason of a process that failed, where only a lost connection was seen here.
        """
        if self.size(decision) == 1:
            yield
            return
        if not self._prepared:  # its result was there when the run was planned
            self.prepare([decision])
        messages = self._connected()
        if self._helpers is not None:
            messages.wait_for_all(self.process.world_size, self._helpers.check)
        inputs = {
            port: {"kind": a.kind, "stage": a.stage, "folder": str(a.folder), "digest": a.digest}
            for port, a in decision.inputs.items()
        }
        name = decision.spec.name
        messages.post(
            {"do": "stage", "stage": name, "inputs": inputs, "slots": list(decision.slots), "work": str(work)}
        )
        try:
            with nullcontext() if self._helpers is None else self._helpers.watched():
                yield
        except KeyboardInterrupt:
            self._cut_short = True
            raise
        except ProcessError as error:
            reason = messages.failure()
            if reason is None:
                raise
            raise ProcessError(reason) from error
        finally:
            with suppress(ProcessError):  # without the launcher's store the others end by themselves
                messages.post({"do": "stage_over"})

    def dismiss(self, *, well: bool) -> None:
        """Tell the others that the run is over; `well` means that no process is still in the middle of a stage."""
        well = well and not self._cut_short
        try:
            if self._messages is not None:
                self._messages.post({"do": "end", "well": well})
                if well:
                    disconnect()
        finally:
            if self._helpers is not None:
                self._helpers.end(well=well)
        if self._messages is not None and self._helpers is not None and not well:
            disconnect()  # now that nobody is left; of a launch that went wrong the launcher ends all processes


def parts_of(run: RunConfig) -> dict[str, str]:
    """Digests of what all processes must have composed alike, by config key."""
    parts = {key: run.resolved.get(key) for key in ("seed", *run.selected)}
    return {key: hashlib.sha256(as_yaml({key: part}).encode()).hexdigest() for key, part in parts.items()}


def disconnect() -> None:
    """End the connection between the processes; all must do so."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    # Accelerate keeps what training has connected; a sweep's next job in this process connects anew.
    if (accelerate := sys.modules.get("accelerate")) is not None:
        accelerate.PartialState._reset_state()


@contextmanager
def leading(run: RunConfig, process: Process, helpers: Helpers | None) -> Iterator[Crew]:
    """The crew of a run, dismissed at its end, whatever that is; `helpers` are those that the run starts itself."""
    if helpers is not None:
        helpers.announce()
    crew = Crew(run, process, connect(process) if process.world_size > 1 and helpers is None else None, helpers)
    try:
        yield crew
    except BaseException:
        with suppress(ProcessError):  # without the launcher's store the others end by themselves
            crew.dismiss(well=False)
        raise
    crew.dismiss(well=True)
