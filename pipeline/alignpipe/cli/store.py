"""`alignpipe store ls | verify | gc | pin | unpin`: what is stored, whether it is sound, and making room."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from alignpipe.errors import StoreError
from alignpipe.paths import user_path
from alignpipe.store import Store
from alignpipe.store.cleaning import pin, pinned, removals, remove, spared, unpin
from alignpipe.store.files import folder_bytes, read_json
from alignpipe.store.objects import problem_of
from alignpipe.tables import show_table

_DIGITS = 12
"""As much of a digest or key as is shown."""


def main(argv: Sequence[str]) -> int:
    """Run one of the store's commands; gives the exit code (1 if `verify` found damage).

    Raises `StoreError` if there is no store, or it cannot be written.
    """
    arguments = _parser().parse_args(argv)
    store = Store(user_path(arguments.outputs).absolute() / "store")
    if not store.root.is_dir():
        raise StoreError(f"there is no store {store.root}; --outputs names the folder that holds one")
    command: Callable[[Store, argparse.Namespace], int] = arguments.command
    return command(store, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="alignpipe store", description="Look at and clean the stage store.")
    commands = parser.add_subparsers(required=True, metavar="ls | verify | gc | pin | unpin")

    def add(name: str, command: Callable[[Store, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--outputs", default="outputs", help="the folder that holds store/ (default: outputs)")
        sub.set_defaults(command=command)
        return sub

    add("ls", _ls, "list the stored objects and the unfinished work")
    add("verify", _verify, "read every stored file and compare it with its digest")
    gc = add("gc", _gc, "list what no run folder and no pin needs; with --yes remove it")
    gc.add_argument("--yes", action="store_true", help="remove it, do not only list it")
    gc.add_argument("--days", type=float, default=7.0, help="keep unfinished work younger than this (default: 7)")
    for sub in (add("pin", _pin, "keep an object whatever gc finds"), add("unpin", _unpin, "undo a pin")):
        sub.add_argument("digest", help="the first digits of the object's digest")
    return parser


def _ls(store: Store, arguments: argparse.Namespace) -> int:
    pins = pinned(store)
    rows = []
    for obj in store.objects():
        kind = (read_json(obj / "manifest.json") or {}).get("kind", "damaged")
        records = [read_json(path) or {} for path in sorted(obj.glob("records/*/record.json"))]
        created = max((str(record.get("created", "")) for record in records), default="")
        size = _size(folder_bytes(obj / "payload"))
        rows.append((obj.parent.name, obj.name[:_DIGITS], kind, size, created, "pinned" if obj.name in pins else ""))
    for work in sorted((store.root / "work").glob("*")):
        stage, _, key = work.name.rpartition("-")
        rows.append((stage, key[:_DIGITS], "unfinished", _size(folder_bytes(work)), "", ""))
    show_table(("stage", "digest", "kind", "size", "made", ""), rows)
    return 0


def _verify(store: Store, arguments: argparse.Namespace) -> int:
    objects = list(store.objects())
    problems = [problem for problem in (problem_of(obj, deep=True) for obj in objects) if problem]
    for problem in problems:
        _print(f"{problem}; it is computed again when a run needs it")
    _print(f"{len(objects)} objects, {len(problems)} damaged")
    return 1 if problems else 0


def _gc(store: Store, arguments: argparse.Namespace) -> int:
    planned = removals(store, arguments.days)
    if arguments.yes:
        planned = remove(store, planned)
    for entry in planned:
        where = entry.path.relative_to(store.root)
        _print(f"{_size(entry.size):>9}  {where.parts[0]}/{where.parts[1]}  {entry.path.name[:60]}  ({entry.reason})")
    total = _size(sum(entry.size for entry in planned))
    if arguments.yes:
        _print(f"removed {len(planned)} folders, {total}")
    else:
        _print(f"{len(planned)} folders, {total} would go; 'alignpipe store gc --yes' removes them")
    if young := spared(store):
        _print(f"{young} more that no run folder needs were used within the last hour and stay")
    return 0


def _pin(store: Store, arguments: argparse.Namespace) -> int:
    _print(f"pinned {pin(store, arguments.digest)}")
    return 0


def _unpin(store: Store, arguments: argparse.Namespace) -> int:
    _print(f"unpinned {unpin(store, arguments.digest)}")
    return 0


def _size(count: int) -> str:
    """Bytes in a readable unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
