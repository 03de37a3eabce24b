"""`plugins new`: what is written is whole, and plugins/example-reward is exactly that."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

from alignpipe.authoring.package import check_name, neighbours, render, write
from alignpipe.cli.main import main
from alignpipe.errors import ConfigError
from alignpipe.python_files import Located, find_function
from support.distributions import ROOT, InstallFakePlugin, component_source

EXAMPLE = ROOT / "plugins" / "example-reward"
LEFT_BY_TOOLS = {"__pycache__", ".pytest_cache", ".ruff_cache", "build", "dist"}


def located(text: str, name: str, tmp_path: Path) -> Located:
    file = tmp_path / "my.py"
    file.write_text(dedent(text))
    return find_function(f"{file}:{name}", "--from")


def test_the_example_is_the_template_filled_in() -> None:
    """If this fails, write it anew: `alignpipe plugins new reward example-reward --folder plugins/example-reward`."""
    there = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text()
        for path in EXAMPLE.rglob("*")
        if path.is_file() and not LEFT_BY_TOOLS & set(path.relative_to(EXAMPLE).parts)
    }
    assert there == render("example-reward")


def test_a_rule_is_a_whole_package() -> None:
    files = render("acme-politeness")
    assert set(files) == {
        ".github/workflows/tests.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "src/acme_politeness/__init__.py",
        "tests/test_acme_politeness.py",
    }
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "acme-politeness"
    assert project["entry-points"]["alignpipe.plugins"] == {"acme_politeness": "acme_politeness:score"}
    assert "license" not in project, "the author chooses"
    for path, text in files.items():
        assert not re.search(r"@[a-z_]+@", text), f"{path} has a word that was not filled in"
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        if path.endswith(".py"):
            ast.parse(text)


def test_a_trl_function_is_packaged_with_its_columns(tmp_path: Path) -> None:
    source = located(
        '''
        def exact(prompts, completions, answer, unit=None, **kwargs):
            """Is the answer "right"?

            More.
            """
            return [float(text == truth) for text, truth in zip(completions, answer)]
        ''',
        "exact",
        tmp_path,
    )
    files = render("acme-exact", source)
    assert files["src/acme_exact/scoring.py"] == source.source.decode()
    module = files["src/acme_exact/__init__.py"]
    assert '@reward("acme_exact", columns=("answer",))' in module
    assert '"""Is the answer \'right\'?."""' in module
    assert "ask_function(scoring.exact, samples)" in module
    ast.parse(module)


def test_our_functions_arguments_become_options(tmp_path: Path) -> None:
    text = "def score(samples, word='please', *, weight: float = 1, most: int | None = None):\n    return []\n"
    module = render("acme", located(text, "score", tmp_path))["src/acme/__init__.py"]
    assert 'word: str = field(default="please", metadata=' in module
    assert "weight: float = field(default=1, metadata=" in module
    assert "most: int | None = field(default=None, metadata=" in module
    assert "ask_function(scoring.score, samples, word=options.word, weight=options.weight, most=options.most)" in module


def test_the_summary_begins_with_a_capital_and_comments_stand_in_a_column(tmp_path: Path) -> None:
    bare = render("acme", located("def score(samples):\n    return []\n", "score", tmp_path))
    assert '"""The function score."""' in bare["src/acme/__init__.py"]
    told = render("acme", located("def score(samples):\n    'short answers.'\n", "score", tmp_path))
    assert '"""Short answers."""' in told["src/acme/__init__.py"]
    lines = bare["README.md"].split("```\n")[1].splitlines()
    assert len({len(line.partition("# ")[0]) for line in lines}) == 1


def test_another_decorator_is_no_obstacle(tmp_path: Path) -> None:
    text = "@clip_rewards(0, 1)\ndef score(samples, /, *more, word='x', **rest):\n    return []\n"
    module = render("acme", located(text, "score", tmp_path))["src/acme/__init__.py"]
    assert "ask_function(scoring.score, samples, word=options.word)" in module


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def score(samples, words=()): ...", "its argument 'words' becomes an option, so it needs a plain default"),
        ("def score(samples, word): ...", "its argument 'word' becomes an option"),
        ("def score(samples, word=len): ...", "its argument 'word' becomes an option"),
        ("def score(): ...", "must take \\(samples\\)"),
        ("def score(completions, trainer_state): ...", "it needs trainer_state"),
        ("@reward('a')\ndef score(samples): ...", "is made a reward by a decorator already"),
        ("@rewards.reward('a')\ndef score(samples): ...", "is made a reward by a decorator already"),
        ("score = print", "that is no function defined in the file"),
    ],
)
def test_functions_that_cannot_be_packaged(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--from my\.py:score.*{message}"):
        render("acme", located(text, "score", tmp_path))


def test_imported_neighbours_are_named(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").touch()
    (tmp_path / "more").mkdir()
    text = "import re, helpers\nfrom more.inside import x\nfrom math import pi\ndef score(samples): ...\n"
    assert neighbours(located(text, "score", tmp_path)) == ["helpers", "more"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Acme_Reward", "for example 'acme-reward'"),
        ("9lives", "for example 'lives'"),
        ("é", "joined by '-'$"),
        ("json", "'json' is the name of a Python module"),
        ("class", "'class' is the name of a Python module"),
        ("alignpipe", "'alignpipe' is the name of a Python module"),
        ("torch", "a module 'torch' is installed, and the package would stand in its way"),
        ("acme", "reward=acme is there already, from fakes"),
    ],
)
def test_names_that_cannot_be_used(name: str, message: str, fake_pipeline: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check_name(name)
    check_name("acme-politeness")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    write(tmp_path / "there", {"a/b.txt": "an empty folder is fine\n"})
    with pytest.raises(ConfigError, match="is there already, and nothing is overwritten; --folder"):
        write(tmp_path / "there", {"a/b.txt": "again\n"})
    assert (tmp_path / "there" / "a" / "b.txt").read_text() == "an empty folder is fine\n"


def test_the_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    install_fake_plugin: InstallFakePlugin,
) -> None:
    install_fake_plugin("other", {"other": "other_one"}, {"other_one.py": component_source("reward", "other")})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text("import near\ndef score(samples):\n    return [1.0 for _ in samples]\n")
    (tmp_path / "near.py").touch()
    assert main(["plugins", "new", "reward", "acme-one", "--from", "my.py", "--folder", "here"]) == 0
    said = capsys.readouterr().out
    assert "the file imports near from its folder: copy them into here/src/acme_one" in said
    assert "score has no docstring; say in here/src/acme_one/__init__.py what it rewards" in said
    assert "alignpipe plugins check reward/acme_one" in said
    assert (tmp_path / "here" / "src" / "acme_one" / "scoring.py").is_file()
    assert main(["plugins", "new", "reward", "acme-one", "--from", "my.py", "--folder", "here"]) == 1
    assert capsys.readouterr().err.startswith("alignpipe: error: here is there already")
