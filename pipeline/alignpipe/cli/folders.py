"""The folder that Hydra makes for a run, where the run did not begin."""

from __future__ import annotations

from pathlib import Path


def discard_unused_run_folder(folder: Path) -> None:
    """Remove the folder of a run that failed before it began: bad input leaves nothing behind.

    With it go the folders above that are empty then, as far as they are ours: those below the current folder
    (`outputs/runs`, `outputs`), and `runs` where `outputs` is elsewhere. A folder with anything else in it stays.
    """
    if (folder / "summary.json").exists():
        return
    hydras_own = folder / ".hydra"
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (hydras_own / name).unlink(missing_ok=True)
    runs = [folder.parent] if folder.parent.name == "runs" else []
    here = [path for path in folder.parents if Path.cwd() in path.parents and path not in runs]
    for path in (hydras_own, folder, *runs, *here):  # from the inside out
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
