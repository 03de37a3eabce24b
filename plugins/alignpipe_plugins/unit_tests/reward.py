"""Scores a response by the tests its code passes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe_plugins.unit_tests.cases import BadTests, Case, read_cases, same_output
from alignpipe_plugins.unit_tests.config import Score, UnitTestsConfig
from alignpipe_plugins.unit_tests.exchange import Unwanted
from alignpipe_plugins.unit_tests.extraction import find_code
from alignpipe_plugins.unit_tests.sandbox import Limits, Refused, Result, Sandbox, Trouble
from alignpipe_plugins.unit_tests.withholding import withhold


@dataclass(frozen=True)
class Outcome:
    """What the tests say of one response: share passed, whether its code runs, whether a time was over."""

    passed: float = 0.0
    runs: float = 0.0
    timeout: float = 0.0


class UnitTestsReward:
    """Runs each response's code against the tests of its row; several responses at a time."""

    def __init__(self, config: UnitTestsConfig) -> None:
        self._config = config
        examples = {config.tests: "assert add(1, 2) == 3", config.entry_point: "add", config.setup: "import math"}
        self.columns = {column: example for column, example in examples.items() if column}
        self._sandbox = sandbox_of(config)

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """The share of tests passed, or 1 and 0; parts passed, runs and timeout, each in [0, 1].

        Whatever the code does wrong scores 0; a failure is what went wrong with the row or the sandbox. When the wait
        is cancelled, the sandboxes are ended.
        """
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(self._config.workers, thread_name_prefix="alignpipe-unit-tests")
        try:
            work = [loop.run_in_executor(pool, self._one, sample, stop) for sample in samples]
            outcomes = await asyncio.gather(*work)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        failures = {index: found for index, found in enumerate(outcomes) if isinstance(found, Failure)}
        scored = [Outcome() if isinstance(found, Failure) else found for found in outcomes]
        return Scores(
            total=[self._total(outcome) for outcome in scored],
            parts={name: [getattr(outcome, name) for outcome in scored] for name in ("passed", "runs", "timeout")},
            failures=failures,
        )

    def _total(self, outcome: Outcome) -> float:
        return outcome.passed if self._config.score is Score.share else float(outcome.passed == 1.0)

    def _one(self, sample: Sample, stop: threading.Event) -> Outcome | Failure:
        """One response, in a thread of the pool."""
        config = self._config
        try:
            entry_point = sample.row.get(config.entry_point) if config.entry_point else None
            cases = read_cases(sample.row.get(config.tests), entry_point)
            code = find_code(sample.response, config.extract)
            # With nothing to run the sandbox is still asked for: where there is none, no response gets a score.
            if code is None:
                self._sandbox.way()
                return Outcome()
            setup = str(sample.row.get(config.setup) or "") if config.setup else ""
            return _judged(self._sandbox, f"{setup}\n" if setup else "", code, cases, stop)
        except BadTests as error:
            return Failure("exception", f"the tests in column {config.tests!r} cannot be used: {error}")
        except Refused as error:
            return Failure("refused", str(error))
        except Trouble as error:
            return Failure("exception", str(error))
        except Unwanted:
            return Failure("timeout", "nobody waits for this score any more")


def _judged(sandbox: Sandbox, setup: str, code: str, cases: Sequence[Case], stop: threading.Event) -> Outcome:
    """Run the cases; tests of code have one more before them, which only loads the response."""
    as_program = cases[0].test is None
    if as_program:
        results = sandbox.run(code, cases, stop, setup=setup)
        passed = [_prints(result, case.output or "") for result, case in zip(results, cases, strict=True)]
        runs = any(result.passed for result in results)
    else:
        tests = [withhold(case.test or "") for case in cases]
        asked = [Case(test=test.code, stated_bytes=test.most) for test in tests]
        loaded, *results = sandbox.run(code, [Case(test=""), *asked], stop, setup=setup)
        passed = [result.passed and test.hold(result.stated) for result, test in zip(results, tests, strict=True)]
        results, runs = [loaded, *results], loaded.passed
    return Outcome(
        passed=sum(passed) / len(passed),
        runs=float(runs),
        timeout=float(any(result.timeout for result in results)),
    )


def _prints(result: Result, wanted: str) -> bool:
    """A program's output is compared here, outside: what it should print never enters the sandbox."""
    return result.passed and not result.cut and same_output(result.output, wanted)


def sandbox_of(config: UnitTestsConfig) -> Sandbox:
    """The sandbox with the limits of the options; nothing is tried yet."""
    limits = Limits(
        timeout=config.timeout,
        test_timeout=config.test_timeout,
        memory_bytes=config.memory_mb << 20,
        total_memory_bytes=config.total_memory_mb << 20,
        processes=config.processes,
        file_bytes=config.file_mb << 20,
        disk_bytes=config.disk_mb << 20,
        output_bytes=config.output_kb << 10,
    )
    return Sandbox(limits, config.isolation, config.seccomp, config.python)


def build(config: UnitTestsConfig, context: BuildContext) -> UnitTestsReward:
    """The component's factory."""
    return UnitTestsReward(config)
