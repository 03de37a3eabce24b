"""Rank 0's side of a run of several processes: it tells the others which stages to take part in, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from alignpipe.errors import ProcessError
from alignpipe.plan import Decision
from alignpipe.processes import Process
from alignpipe.runner.messages import Messages, connect


class Crew:
    """The other processes; of a run of one process there are none."""

    def __init__(self, process: Process, messages: Messages | None = None) -> None:
        self.process = process
        self._messages = messages

    def size(self, decision: Decision) -> int:
        """How many processes run this stage together."""
        return self.process.world_size if decision.spec.registered.component.parallel else 1

    def prepare(self, decisions: Sequence[Decision]) -> None:
        """Have the others import the code of the stages that will work, while this process prepares the run."""
        if self._messages is None:
            return
        working = [each.spec for each in decisions if each.action != "hit" and self.size(each) > 1]
        needed = dict.fromkeys(
            (part.component.group, part.component.name) for spec in working for part in spec.components
        )
        if needed:
            self._messages.post({"do": "load", "components": list(needed)})

    @contextmanager
    def taking_part(self, decision: Decision, work: Path) -> Iterator[None]:
        """Have the others run the stage too while the block runs, if it is written for that.

        Raises `ProcessError` with the reason of a process that failed, where only a lost connection was seen here.
        """
        if self._messages is None or self.size(decision) == 1:
            yield
            return
        inputs = {
            port: {"kind": a.kind, "stage": a.stage, "folder": str(a.folder), "digest": a.digest}
            for port, a in decision.inputs.items()
        }
        name = decision.spec.name
        self._messages.post(
            {"do": "stage", "stage": name, "inputs": inputs, "slots": list(decision.slots), "work": str(work)}
        )
        try:
            yield
        except ProcessError as error:
            reason = self._messages.failure()
            if reason is None:
                raise
            raise ProcessError(reason) from error
        finally:
            with suppress(ProcessError):  # without the launcher's store the others end by themselves
                self._messages.post({"do": "stage_over"})

    def dismiss(self, *, well: bool) -> None:
        """Tell the others that the run is over; `well` means that no process is still in the middle of a stage."""
        if self._messages is None:
            return
        self._messages.post({"do": "end", "well": well})
        if well:
            disconnect()


def disconnect() -> None:
    """End the connection between the processes; all must do so."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def leading(process: Process) -> Iterator[Crew]:
    """The crew of a run, dismissed at its end, whatever that is."""
    crew = Crew(process, connect(process) if process.world_size > 1 else None)
    try:
        yield crew
    except BaseException:
        with suppress(ProcessError):  # without the launcher's store the others end by themselves
            crew.dismiss(well=False)
        raise
    crew.dismiss(well=True)
