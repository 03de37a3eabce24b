"""What people wait for at the prompt must not load the heavy libraries: help, TAB, plugin listings, composing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.distributions import ROOT, command_environment

HEAVY = {"torch", "transformers", "wandb", "datasets", "pyarrow", "numpy", "accelerate"}

SCRIPT = """
import json, sys
from alignpipe.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(script: str, *arguments: str, **environ: str) -> set[str]:
    """The top-level modules in a process that ran `script`."""
    from pathlib import Path

    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=command_environment(Path("/nonexistent"), ALIGNPIPE_PLUGINS="alignpipe", **environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["--cfg", "job"],
        ["plugins", "list"],
        ["plugins", "show", "reward/function"],
        ["no-such-command"],
        ["+foo=1"],
    ],
    ids=" ".join,
)
def test_the_prompt_is_light(arguments: list[str]) -> None:
    modules = loaded(SCRIPT, *arguments)
    assert "alignpipe" in modules
    assert not modules & HEAVY


def test_completion_is_light() -> None:
    line = "alignpipe reward."
    modules = loaded(SCRIPT, "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert not modules & HEAVY


def test_the_built_in_plugins_and_the_api_are_light() -> None:
    plugins = sorted(path.parent.name for path in (ROOT / "plugins" / "alignpipe_plugins").glob("*/plugin.py"))
    assert plugins
    imports = "".join(f"import alignpipe_plugins.{name}.plugin\n" for name in plugins)
    report = "import json, sys\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    modules = loaded("import alignpipe.api\n" + imports + report)
    assert not modules & (HEAVY | {"hydra", "rich"})
