"""`alignpipe plugins new`: a package to start from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alignpipe.authoring.package import check_name, neighbours, render, undocumented, write
from alignpipe.python_files import find_function


def main(argv: Sequence[str]) -> int:
    """Write the package.

    Raises `ConfigError` for a name or a function that cannot be used, and for a folder that is there already.
    """
    parser = argparse.ArgumentParser(
        prog="alignpipe plugins new", description="Write a package that brings a reward: installable, with a test."
    )
    parser.add_argument("kind", choices=["reward"])
    parser.add_argument("name", metavar="NAME", help="the distribution's name, for example acme-politeness")
    parser.add_argument("--from", dest="source", metavar="FILE[:FUNCTION]", help="a function to package, ours or TRL's")
    parser.add_argument("--folder", type=Path, help="where to write it (default: a folder of its name, here)")
    arguments = parser.parse_args(list(argv))
    check_name(arguments.name)
    source = find_function(arguments.source, "--from") if arguments.source else None
    folder: Path = arguments.folder or Path(arguments.name)
    contents = render(arguments.name, source)
    write(folder, contents)
    option = arguments.name.replace("-", "_")
    lines = [f"wrote {folder}:", *(f"  {path}" for path in sorted(contents)), ""]
    beside = neighbours(source) if source else []
    if beside:
        lines += [f"the file imports {', '.join(beside)} from its folder: copy them into {folder}/src/{option}", ""]
    if source and undocumented(source):
        lines += [f"{source.function} has no docstring; say in {folder}/src/{option}/__init__.py what it rewards", ""]
    lines += [
        "next:",
        f"  pip install -e '{folder}[test]'",
        f"  alignpipe plugins check reward/{option}",
        f"  python -m pytest {folder}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
