"""The contract of a reward as checks, each with a verdict in words; `alignpipe.testing` makes pytest tests of them."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from alignpipe.api import Failure, Reward, Sample, Scores, Selected
from alignpipe.api.rewards import FailureKind, Kept
from alignpipe.authoring import samples as built_in
from alignpipe.authoring.candidate import Candidate, NotTried
from alignpipe.choices import all_selected, plain
from alignpipe.config.convert import from_plain
from alignpipe.errors import AlignpipeError
from alignpipe.registry import registry
from alignpipe.rewarding.judge import Scored
from alignpipe.rewarding.worker import Overdue, Worker

HEAVY = ("torch", "transformers", "tensorflow", "jax", "datasets", "pyarrow", "accelerate", "wandb", "numpy", "pandas")
"""What no plugin's module may import: everybody would wait for it at every TAB."""
_MOST_IMPORT = 0.5
"""Seconds that a plugin's own import may take, on a machine that is busy."""
_TOLERANCE = 1e-4
"""How far two scores of one sample may be apart, in units of the score (of 1, if it is smaller): batches round."""
_BATCH = 512
_TIMED = 1000
_KINDS: Mapping[FailureKind | str, str] = {
    "timeout": "too late",
    "exception": "an exception",
    "nan": "no finite number",
    "count": "wrong count",
    "refused": "refused",
    "not_applicable": "not applicable",
}
_SUITABLE = "try it on rows of your own (--data FILE), or give an example in its `columns`: {<column>: <example>}"
_NO_FAULT = {"refused", "not_applicable"}
"""Why a sample may go without a score and nothing be wrong."""


class CheckFailed(Exception):
    """What a check found wrong."""


@dataclass(frozen=True)
class Verdict:
    """One check's outcome."""

    check: str
    outcome: Literal["ok", "failed", "skipped"]
    why: str


def light_import(candidate: Candidate) -> str:
    """The entry point's module imports nothing heavy, and quickly."""
    module = candidate.chosen.registered.module
    code = (
        "import importlib, json, sys, time, alignpipe.rewards\n"
        "begin = time.perf_counter(); importlib.import_module(sys.argv[1]); spent = time.perf_counter() - begin\n"
        "print(json.dumps([spent, sorted(sys.modules)]))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    seconds = math.inf
    for _ in range(2):  # the first one may have to compile
        done = subprocess.run([sys.executable, "-c", code, module], env=environ, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"]
            raise CheckFailed(f"importing {module} failed: {said[-1]}")
        spent, modules = json.loads(done.stdout.splitlines()[-1])
        found = [name for name in HEAVY if name in modules]
        if found:
            raise CheckFailed(f"{module} imports {', '.join(found)}; import it where it is used, inside the functions")
        seconds = min(seconds, spent)
    if seconds > _MOST_IMPORT:
        raise CheckFailed(f"{module} takes {seconds:.2f} s to import, at every command and every TAB")
    return f"{module}: {seconds * 1000:.0f} ms, nothing heavy"


def options(candidate: Candidate) -> str:
    """The options survive pickle (workers of a sweep) and being read from an artifact, where they are plain data."""
    chosen = candidate.chosen
    config = chosen.selected.config
    try:
        again = pickle.loads(pickle.dumps(config))
    except Exception as error:
        raise CheckFailed(f"{type(config).__name__} cannot be pickled: {type(error).__name__}: {error}") from error
    if asdict(again) != asdict(config):
        raise CheckFailed(f"pickled, {config} becomes {again}")
    for choice in reversed(all_selected(chosen.selected)):  # a mix's members, then the mix that holds them
        _check_stored(choice)
    bare = [entry.name for entry in fields(config) if not entry.metadata.get("help")]
    note = f"; without help text: {', '.join(bare)}" if bare else ""
    count = len(fields(config))
    return f"{count} option{'' if count == 1 else 's'}{note}"


def _check_stored(choice: Selected) -> None:
    """Raise `CheckFailed` unless a choice's options come back from an artifact, whose JSON holds them as plain data."""
    where = f"stored in an artifact, options of {choice.group}/{choice.name}"
    try:
        stored = json.loads(json.dumps(plain(choice.config)))
    except TypeError as error:
        raise CheckFailed(f"{where} are no plain data: {error}") from error
    reopened = plain(from_plain(stored, registry().get(choice.group, choice.name), registry()))
    differ = [name for name in stored if reopened[name] != stored[name]]
    if differ:
        raise CheckFailed(f"{where} come back as something else: {', '.join(differ)}")


def one_score_each(candidate: Candidate) -> str:
    """As many scores as samples, for many and for one, and no sample raises."""
    scored = _first(candidate)
    if not scored.failures:  # the judge halves a batch that goes wrong, which mends a wrong count for ones
        answer = Worker().call(lambda: candidate.reward.score(candidate.samples), candidate.scoring.deadline)
        count = len(answer.total if isinstance(answer, Scores) else answer)
        if count != len(candidate.samples):
            raise CheckFailed(f"{count} scores for {len(candidate.samples)} samples; there must be one each, in order")
    _none_of(("count", "exception"), candidate, scored)
    _asked(candidate, candidate.reward, [candidate.samples[scored.kept[0]]])
    parts = f", parts {', '.join(scored.parts)}" if scored.parts else ", no parts"
    counts = " and ".join(f"{count} {_KINDS[kind]}" for kind, count in scored.failure_counts().items())
    without = f"; the other {len(scored.failures)} have none: {counts}" if scored.failures else ""
    of = f"{len(scored.kept)} of {len(candidate.samples)}" if scored.failures else f"{len(candidate.samples)}"
    return f"{of} samples have a score{parts}{without}"


def finite(candidate: Candidate) -> str:
    """Every score and every part is a finite number, or a failure that says why not."""
    scored = _first(candidate)
    _none_of(("nan",), candidate, scored)
    values = [scored.total[index] for index in scored.kept]
    if len(values) > 1 and min(values) == max(values):
        return f"every sample scores {values[0]:zg}: nothing can be learned from that"
    return f"from {min(values):zg} to {max(values):zg}"


def order(candidate: Candidate) -> str:
    """A sample's score does not depend on its position in the batch."""
    first = _first(candidate)
    shuffle = list(range(len(candidate.samples)))
    random.Random(1).shuffle(shuffle)
    shuffled = _asked(candidate, candidate.reward, [candidate.samples[index] for index in shuffle])
    found = _outcomes(shuffled)
    back = sorted(range(len(shuffle)), key=shuffle.__getitem__)
    _same(candidate, first, [found[index] for index in back], "in another order")
    return "shuffled, the same scores"


def batch(candidate: Candidate) -> str:
    """A sample's score does not depend on what else is in the batch."""
    first = _first(candidate)
    alone = []
    for sample in candidate.samples:
        scored = candidate.ask(candidate.reward, [sample])
        if "timeout" in scored.failure_counts():
            raise CheckFailed(f"asked about {_quoted(sample)} alone, it gave {scored.failures[0].message}")
        alone += _outcomes(scored)
    _same(candidate, first, alone, "asked about alone")
    return "one by one, the same scores"


def seed(candidate: Candidate) -> str:
    """Built twice with the same seed, it gives the same scores, whatever else drew random numbers."""
    first = _first(candidate)
    _stir()
    again = _asked(candidate, candidate.fresh(), candidate.samples)
    _same(candidate, first, _outcomes(again), "built a second time with the same seed")
    return "built twice, the same scores"


def save_and_load(candidate: Candidate) -> str:
    """What was trained, or is kept, scores the same after save and load."""
    if not isinstance(candidate.chosen.build(), Kept):
        return "it keeps nothing: its options say all"
    _first(candidate)
    trained = candidate.trained
    reward = trained or candidate.fresh()
    before = _asked(candidate, reward, candidate.samples)
    opened = candidate.opened(reward)
    _same(candidate, before, _outcomes(_asked(candidate, opened, candidate.samples)), "after save and load")
    return "trained, saved and loaded" if trained is not None else "saved and loaded"


def failures(candidate: Candidate) -> str:
    """Odd samples and missing columns get a score or a typed failure, never an exception or a made-up number."""
    usual = candidate.samples[_first(candidate).kept[0]]
    strange = built_in.odd(usual.row)
    scored = candidate.ask(candidate.reward, [usual, *strange])
    for index, failure in scored.failures.items():
        if failure.kind == "timeout":
            raise CheckFailed(
                f"asked about odd samples (empty, very long, control characters), it gave {failure.message}"
            )
        if failure.kind not in _NO_FAULT:
            raise CheckFailed(f"{failure.kind}, {_told([usual, *strange][index], failure)}")
    for column in candidate.columns:
        row = {name: value for name, value in usual.row.items() if name != column}
        try:
            bare = candidate.ask(candidate.reward, [Sample(usual.prompt, usual.response, row=row)])
        except AlignpipeError:  # it says in words that it cannot work so
            continue
        if bare.kept:
            raise CheckFailed(
                f"it says that it reads the column {column!r}, and scores a sample without it all the same"
            )
    refused = f", {len(scored.failures)} of them without a score" if scored.failures else ""
    missed = f"; {', '.join(candidate.columns)} missed" if candidate.columns else ""
    return f"{len(strange)} odd samples{refused}{missed}"


def speed(candidate: Candidate) -> str:
    """A batch is scored well within the deadline."""
    kept = _first(candidate).kept
    reward, samples = candidate.fresh(), list(candidate.samples)
    _asked(candidate, reward, [samples[kept[0]]])  # whatever is loaded on first use
    seconds = _timed(candidate, reward, samples)
    if seconds * _TIMED / len(samples) < 5:
        samples = (samples * math.ceil(_TIMED / len(samples)))[:_TIMED]
        seconds = _timed(candidate, reward, samples)
    rate = seconds / len(samples)
    deadline = candidate.chosen.settings.scoring.deadline
    if deadline is not None and rate * _BATCH > deadline:
        raise CheckFailed(
            f"a batch of {_BATCH} samples would take {rate * _BATCH:.0f} s, and scoring.deadline={deadline:g} s cuts it"
        )
    return f"{rate * 1000:.3g} s per 1000 samples"


CHECKS: Mapping[str, Callable[[Candidate], str]] = {
    "light import": light_import,
    "options": options,
    "one score each": one_score_each,
    "finite": finite,
    "order": order,
    "batch": batch,
    "seed": seed,
    "save and load": save_and_load,
    "failures": failures,
    "speed": speed,
}


def verdict(name: str, candidate: Candidate) -> Verdict:
    """Run one check; whatever it meets becomes part of the verdict."""
    try:
        return Verdict(name, "ok", CHECKS[name](candidate))
    except NotTried as reason:
        return Verdict(name, "skipped", str(reason))
    except (CheckFailed, AlignpipeError, Overdue) as error:
        why = str(error)
    except (Exception, SystemExit) as error:  # the reward's own, from its factory, fit, save or load
        why = f"{type(error).__name__}: {error}"
    before = candidate.told.setdefault(why, name)
    return Verdict(name, "failed", why) if before == name else Verdict(name, "skipped", f"as for '{before}'")


def _first(candidate: Candidate) -> Scored:
    """What it says of the samples, at least one of which has a score."""
    return _with_scores(candidate, candidate.samples, candidate.first())


def _asked(candidate: Candidate, reward: Reward, samples: Sequence[Sample]) -> Scored:
    return _with_scores(candidate, samples, candidate.ask(reward, samples))


def _with_scores(candidate: Candidate, samples: Sequence[Sample], scored: Scored) -> Scored:
    """Raise `NotTried` where the built-in samples do not suit, `CheckFailed` where none gets a score otherwise."""
    if scored.kept:
        return scored
    kinds, failure = set(scored.failure_counts()), scored.failures[0]
    if failure.kind == "timeout":
        hint = "; scoring.deadline=<seconds> gives it longer"
        raise CheckFailed(f"{len(samples)} samples: {failure.message}{hint}")
    told = _told(samples[0], failure)
    if candidate.own_samples:
        raise CheckFailed(f"no sample gets a score: {told}")
    if "not_applicable" in kinds and kinds <= _NO_FAULT:
        raise NotTried(f"it applies to no built-in sample: {told}; {_SUITABLE}")
    if candidate.columns and kinds == {"refused"}:
        raise NotTried(f"it refuses every built-in sample: {told}; {_SUITABLE}")
    hint = "" if kinds == {"count"} else f"; {_SUITABLE}"
    raise CheckFailed(f"no built-in sample gets a score: {told}{hint}")


def _none_of(kinds: Collection[str], candidate: Candidate, scored: Scored) -> None:
    """Raise `CheckFailed` if a sample failed in one of these ways."""
    wrong = {index: failure for index, failure in scored.failures.items() if failure.kind in kinds}
    if wrong:
        index, failure = next(iter(wrong.items()))
        raise CheckFailed(
            f"{len(wrong)} of {len(candidate.samples)} samples: {_told(candidate.samples[index], failure)}"
        )


def _outcomes(scored: Scored) -> list[float | FailureKind]:
    """Per sample its score, or why it has none."""
    failures = scored.failures
    return [failures[index].kind if index in failures else total for index, total in enumerate(scored.total)]


def _same(candidate: Candidate, first: Scored, second: Sequence[float | FailureKind], how: str) -> None:
    """Raise `CheckFailed` if a sample's two scores differ by more than rounding; failures must agree too."""
    for index, (one, other) in enumerate(zip(_outcomes(first), second, strict=True)):
        if isinstance(one, str) or isinstance(other, str):
            agree = isinstance(one, str) and isinstance(other, str)
        else:
            agree = abs(one - other) <= _TOLERANCE * max(1.0, abs(one))
        if not agree:
            raise CheckFailed(f"{_quoted(candidate.samples[index])} {_said(one)}, and {_said(other)} {how}")


def _said(outcome: float | FailureKind) -> str:
    return f"has no score ({_KINDS[outcome]})" if isinstance(outcome, str) else f"scores {outcome:zg}"


def _timed(candidate: Candidate, reward: Reward, samples: Sequence[Sample]) -> float:
    begin = time.perf_counter()
    _asked(candidate, reward, samples)
    return time.perf_counter() - begin


def _stir() -> None:
    """Draw from the global random streams, which a reward must not depend on."""
    random.random()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.random()
    if (torch := sys.modules.get("torch")) is not None:
        torch.rand(1)


def _told(sample: Sample, failure: Failure) -> str:
    """A failure with the first line of its message, where the error of a traceback stands."""
    first = failure.message.strip().partition("\n")[0]
    hint = "; name the columns of the prompt row that it reads in `columns`" if first.startswith("KeyError") else ""
    return f"{_quoted(sample)}: {first}{hint}" if first else _quoted(sample)


def _quoted(sample: Sample) -> str:
    return f"the response {sample.response[:50]!r}"
