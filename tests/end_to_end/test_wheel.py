"""The wheel: built from the sdist, installed apart from the repository, run where the folder names are taken."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from support.commands import run, statuses, succeed, summaries
from support.distributions import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that a release would upload."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    succeed(run(command, out))
    assert len(list(out.glob("*.tar.gz"))) == 1
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; the dependencies are those of the environment the tests run in."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    site = next(home.glob("lib/python*/site-packages"))
    # A path file adds the folder, but does not follow the path files in it: our editable install stays out of sight.
    folders = [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
    (site / "dependencies.pth").write_text("\n".join(dict.fromkeys(folders)) + "\n")
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    succeed(run([sys.executable, "-m", "pip", "--python", str(python), *install], home))
    return python


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with packages of our folders' names, which must never be imported, and a config of its own."""
    for name in ("conf", "plugins", "pipeline", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('imported the {name} of the working folder')\n")
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [nonsense]\n")
    return tmp_path


def test_the_wheel_holds_the_config_and_no_more_than_it_should(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    config = {f"alignpipe/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert config <= names
    templates = (ROOT / "pipeline" / "alignpipe" / "authoring" / "templates").glob("*")
    assert {f"alignpipe/authoring/templates/{path.name}" for path in templates} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"alignpipe", "alignpipe_plugins"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_what_is_run_is_the_wheel(python, hostile):
    code = "import alignpipe, alignpipe_plugins; print(alignpipe.__file__); print(alignpipe_plugins.__file__)"
    places = succeed(run([str(python), "-c", code], hostile)).stdout.split()
    assert all(place.startswith(str(python.parents[1])) for place in places)


@pytest.mark.parametrize("how", ["script", "module"])
def test_help_and_plugins_in_a_hostile_folder(python, hostile, how):
    command = [str(python.with_name("alignpipe"))] if how == "script" else [str(python), "-m", "alignpipe"]
    text = succeed(run([*command, "--help"], hostile)).stdout
    assert any(line.startswith("reward ") and "bradley_terry" in line for line in text.splitlines())
    listed = succeed(run([*command, "plugins", "list"], hostile))
    assert "bradley_terry" in listed.stdout
    assert not listed.stderr


@pytest.mark.parametrize("how", ["script", "module"])
def test_the_chain_in_a_hostile_folder(python, hostile, how):
    command = [str(python.with_name("alignpipe"))] if how == "script" else [str(python), "-m", "alignpipe"]
    stages = ["data", "sft", "reward", "ppo", "eval"] if how == "script" else ["data"]
    succeed(run([*command, "experiment=smoke", f"stages={json.dumps(stages)}".replace(" ", "")], hostile))
    assert statuses(summaries(hostile)[0]) == dict.fromkeys(stages, "ran")
    assert {path.name for path in hostile.iterdir()} == {"conf", "plugins", "pipeline", "tests", "outputs"}
