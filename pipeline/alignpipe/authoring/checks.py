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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Literal

from alignpipe.api import Failure, Sample, Scores
from alignpipe.authoring import samples as built_in
from alignpipe.authoring.candidate import Candidate, NotApplicable
from alignpipe.authoring.choosing import choose
from alignpipe.errors import AlignpipeError
from alignpipe.registry import plugin_module
from alignpipe.rewarding.judge import Scored

HEAVY = ("torch", "transformers", "tensorflow", "jax", "datasets", "pyarrow", "accelerate", "wandb", "numpy", "pandas")
"""What no plugin's module may import: everybody would wait for it at every TAB."""
_MOST_IMPORT = 0.5
"""Seconds that a plugin's own import may take, on a machine that is busy."""
_TOLERANCE = 1e-4
"""How far two scores of one sample may be apart, in units of the score (of 1, if it is smaller): batches round."""
_BATCH = 512
_TIMED = 1000


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
    module = plugin_module(candidate.chosen.registered)
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
            raise CheckFailed(f"importing {module} failed: {done.stderr.strip().splitlines()[-1]}")
        spent, modules = json.loads(done.stdout.splitlines()[-1])
        found = [name for name in HEAVY if name in modules]
        if found:
            raise CheckFailed(f"{module} imports {', '.join(found)}; import it where it is used, inside the functions")
        seconds = min(seconds, spent)
    if seconds > _MOST_IMPORT:
        raise CheckFailed(f"{module} takes {seconds:.2f} s to import, at every command and every TAB")
    return f"{module}: {seconds * 1000:.0f} ms, nothing heavy"


def options(candidate: Candidate) -> str:
    """The options survive pickle (workers of a sweep) and being given on the command line."""
    chosen = candidate.chosen
    config = chosen.selected.config
    try:
        again = pickle.loads(pickle.dumps(config))
    except Exception as error:
        raise CheckFailed(f"{type(config).__name__} cannot be pickled: {type(error).__name__}: {error}") from error
    if asdict(again) != asdict(config):
        raise CheckFailed(f"pickled, {config} becomes {again}")
    given = list(_as_overrides(config))
    try:
        again = choose(chosen.selected.name, given).selected.config
    except AlignpipeError as error:
        raise CheckFailed(f"its own values cannot be given back on the command line: {error}") from error
    left_out = [
        entry.name for entry in fields(config) if not any(text.startswith(f"reward.{entry.name}=") for text in given)
    ]
    differ = [
        entry.name
        for entry in fields(config)
        if entry.name not in left_out and getattr(again, entry.name) != getattr(config, entry.name)
    ]
    if differ:
        raise CheckFailed(f"given on the command line, {', '.join(differ)} come back as something else")
    bare = [entry.name for entry in fields(config) if not entry.metadata.get("help")]
    note = f"; without help text: {', '.join(bare)}" if bare else ""
    return f"{len(fields(config))} options{note}"


def one_score_each(candidate: Candidate) -> str:
    """As many scores as samples, for many and for one, and no sample raises."""
    reward = candidate.fresh()
    scored = _asked(candidate, reward, candidate.samples)
    if not scored.failures:  # the judge halves a batch that goes wrong, which mends a wrong count for ones
        answer = candidate.answer(reward, candidate.samples)
        count = len(answer.total if isinstance(answer, Scores) else answer)
        if count != len(candidate.samples):
            raise CheckFailed(f"{count} scores for {_of(candidate.samples)}; there must be one each, in order")
    wrong = {place: failure for place, failure in scored.failures.items() if failure.kind in ("count", "exception")}
    if wrong:
        place, failure = next(iter(wrong.items()))
        hint = (
            "; name the columns of the prompt row that it reads in `columns`" if "KeyError" in failure.message else ""
        )
        raise CheckFailed(f"{len(wrong)} of {_of(candidate.samples)}: {_told(candidate.samples[place], failure)}{hint}")
    _asked(candidate, reward, candidate.samples[:1])
    parts = f", parts {', '.join(scored.parts)}" if scored.parts else ", no parts"
    refused = f", {len(scored.failures)} failed ({_counts(scored)})" if scored.failures else ""
    return f"{_of(candidate.samples)}{parts}{refused}"


def finite(candidate: Candidate) -> str:
    """Every score and every part is a finite number, or a failure that says why not."""
    scored = _asked(candidate, candidate.fresh(), candidate.samples)
    wrong = {place: failure for place, failure in scored.failures.items() if failure.kind == "nan"}
    if wrong:
        place, failure = next(iter(wrong.items()))
        raise CheckFailed(f"{len(wrong)} of {_of(candidate.samples)}: {_told(candidate.samples[place], failure)}")
    values = [scored.total[place] for place in scored.kept]
    if len(values) > 1 and min(values) == max(values):
        return f"every sample scores {values[0]:g}: nothing can be learned from that"
    return f"from {min(values):g} to {max(values):g}"


def order(candidate: Candidate) -> str:
    """A sample's score does not depend on its place in the batch."""
    reward = candidate.fresh()
    first = _asked(candidate, reward, candidate.samples)
    places = list(range(len(candidate.samples)))
    random.Random(1).shuffle(places)
    shuffled = _asked(candidate, reward, [candidate.samples[place] for place in places])
    back = sorted(range(len(places)), key=places.__getitem__)
    _same(candidate, first, [shuffled.total[place] for place in back], "in another order")
    return "shuffled, the same scores"


def batch(candidate: Candidate) -> str:
    """A sample's score does not depend on what else is in the batch."""
    reward = candidate.fresh()
    first = _asked(candidate, reward, candidate.samples)
    alone = [_alone(candidate, reward, sample) for sample in candidate.samples]
    _same(candidate, first, alone, "asked about alone")
    return "one by one, the same scores"


def seed(candidate: Candidate) -> str:
    """Built twice with the same seed, it gives the same scores, whatever else drew random numbers."""
    totals = []
    for number in (1, 2):
        _stir(number)
        totals.append(_asked(candidate, candidate.fresh(), candidate.samples))
    _same(candidate, totals[0], totals[1].total, "built a second time with the same seed")
    return "built twice, the same scores"


def save_and_load(candidate: Candidate) -> str:
    """What was trained, or is kept, scores the same after save and load."""
    if not candidate.keeps:
        raise NotApplicable("it keeps nothing: its options say all")
    reward = candidate.trained or candidate.fresh()
    before = _asked(candidate, reward, candidate.samples)
    opened = candidate.opened(reward, "again")
    _same(candidate, before, _asked(candidate, opened, candidate.samples).total, "after save and load")
    return "trained, saved and loaded" if candidate.trained is not None else "saved and loaded"


def failures(candidate: Candidate) -> str:
    """Odd samples and missing columns get a score or a typed failure, never an exception or a made-up number."""
    reward = candidate.fresh()
    row = candidate.samples[0].row
    strange = built_in.odd(row)
    scored = _asked(candidate, reward, [*candidate.samples[:1], *strange])
    for place, failure in scored.failures.items():
        if failure.kind != "refused":
            sample = [*candidate.samples[:1], *strange][place]
            raise CheckFailed(f"{failure.kind}, {_told(sample, failure)}")
    for column in candidate.columns:
        bare = [
            Sample(
                sample.prompt,
                sample.response,
                row={name: value for name, value in sample.row.items() if name != column},
            )
            for sample in candidate.samples[:4]
        ]
        if not math.isnan(_alone(candidate, reward, bare[0])):
            raise CheckFailed(
                f"it says that it reads the column {column!r}, and scores a sample without it all the same"
            )
    refused = f", {len(scored.failures)} of them refused" if scored.failures else ""
    return f"{len(strange)} odd samples{refused}" + (
        f"; {', '.join(candidate.columns)} missed" if candidate.columns else ""
    )


def speed(candidate: Candidate) -> str:
    """A batch is scored well within the deadline."""
    reward = candidate.fresh()
    samples = list(candidate.samples)
    _asked(candidate, reward, samples[:1])  # whatever is loaded on first use
    seconds = _timed(candidate, samples)
    if seconds * _TIMED / len(samples) < 5:
        samples = (samples * math.ceil(_TIMED / len(samples)))[:_TIMED]
        seconds = _timed(candidate, samples, reward)
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
    except NotApplicable as reason:
        return Verdict(name, "skipped", str(reason))
    except (CheckFailed, AlignpipeError) as error:
        return Verdict(name, "failed", str(error))
    except Exception as error:  # the reward's own, from its factory, fit, save or load
        return Verdict(name, "failed", f"{type(error).__name__}: {error}")


def _asked(candidate: Candidate, reward: Any, samples: Sequence[Sample]) -> Scored:
    try:
        return candidate.ask(reward, samples)
    except AlignpipeError as error:
        hint = "" if candidate.own_samples else " (--data tries it on rows of your own)"
        raise CheckFailed(f"no sample gets a score: {str(error).splitlines()[-1]}{hint}") from error


def _alone(candidate: Candidate, reward: Any, sample: Sample) -> float:
    """The score of one sample asked about by itself; NaN if it gets none."""
    try:
        return candidate.ask(reward, [sample]).total[0]
    except AlignpipeError:
        return math.nan


def _same(candidate: Candidate, first: Scored, second: Sequence[float], how: str) -> None:
    """Raise `CheckFailed` if a sample's two scores differ by more than rounding; failures must agree too."""
    for place, (one, other) in enumerate(zip(first.total, second, strict=True)):
        if math.isnan(one) and math.isnan(other):
            continue
        if not abs(one - other) <= _TOLERANCE * max(1.0, abs(one)):
            raise CheckFailed(f"{_quoted(candidate.samples[place])} scores {one:g}, and {other:g} {how}")


def _timed(candidate: Candidate, samples: Sequence[Sample], reward: Any = None) -> float:
    reward = reward or candidate.fresh()
    begin = time.perf_counter()
    _asked(candidate, reward, samples)
    return time.perf_counter() - begin


def _stir(number: int) -> None:
    """Draw from the global random streams, which a reward must not depend on."""
    random.seed(number)
    for name, call in (("numpy", "random.seed"), ("torch", "manual_seed")):
        target: Any = sys.modules.get(name)
        for step in call.split(".") if target is not None else ():
            target = getattr(target, step)
        if target is not None:
            target(number)


def _as_overrides(config: Any) -> Iterator[str]:
    """The config's own values as overrides, where Hydra's grammar has a word for them."""
    for entry in fields(config):
        text = _word(getattr(config, entry.name))
        if entry.init and text is not None:
            yield f"reward.{entry.name}={text}"


def _word(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return None if any(sign in value for sign in ('"', "\\", "${")) else f'"{value}"'
    if isinstance(value, list | tuple):
        words = [_word(item) for item in value]
        return None if None in words else f"[{','.join(word for word in words if word is not None)}]"
    return None


def _told(sample: Sample, failure: Failure) -> str:
    """A failure with the last line of its message, where the error of a traceback stands."""
    lines = failure.message.strip().splitlines()
    return f"{_quoted(sample)}: {lines[0]}" if lines else _quoted(sample)


def _quoted(sample: Sample) -> str:
    return f"the response {sample.response[:50]!r}"


def _of(samples: Sequence[Sample]) -> str:
    return f"{len(samples)} samples"


def _counts(scored: Scored) -> str:
    return ", ".join(f"{kind}: {count}" for kind, count in scored.failure_counts().items())
