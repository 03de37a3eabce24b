"""Where a model lies: in a local checkpoint folder, or at one commit of a hub repository. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alignpipe.digests import folder_digest
from alignpipe.errors import ModelError, first_line
from alignpipe.paths import user_path

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TIMEOUT = 10.0
"""Seconds to wait for the hub."""


@dataclass(frozen=True)
class Location:
    """`name` is what `from_pretrained` takes: a folder, or a hub name with `commit`."""

    name: str
    commit: str | None

    def fingerprint(self) -> str:
        """A hub name with its commit, or a digest of the folder's files."""
        return f"hub:{self.name}:{self.commit}" if self.commit else f"folder:{folder_digest(Path(self.name))}"


def resolve_model(path: str, revision: str | None, slot: str = "model") -> Location:
    """The model that `<slot>.path` names; a folder that is there goes before a hub name, as in transformers.

    `revision` is `<slot>.hub_revision`, for hub names: a commit, tag or branch, None for main.

    Raises `ModelError` if it is a folder without a config.json, no folder and no hub name, or a hub name that cannot be
    reached.
    """
    folder = user_path(path)
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"{slot}.hub_revision={revision} is for hub names, but {slot}.path={path} is a local folder"
            )
        if not (folder / "config.json").is_file():
            raise ModelError(f"{slot}.path={path} is no checkpoint folder: it has no config.json")
        return Location(str(folder), None)
    if folder.exists():
        raise ModelError(f"{slot}.path={path} is a file; give the checkpoint folder it lies in")
    if not _HUB_NAME.fullmatch(path):
        raise ModelError(f"{slot}.path={path}: there is no such folder (looked in {Path.cwd()}), and it is no hub name")
    return Location(path, _commit_of(path, revision or "main", slot))


@cache
def _commit_of(name: str, revision: str, slot: str) -> str:
    """The commit a hub revision stands for: the one in the local cache, else the hub's.

    The cache goes first, so that a run that is repeated asks nobody and means the same model. Once per process:
    planning and loading must mean the same commit.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    nowhere = f"{slot}.path={name}: there is no such folder here"
    try:
        HfApi().model_info(name, revision=revision, timeout=_TIMEOUT)  # a download would try for half a minute
        # This one tells the cache what the branch stands for, which a download by commit does not.
        return Path(HfApi().hf_hub_download(name, "config.json", revision=revision)).parent.name
    except RevisionNotFoundError as error:
        raise ModelError(f"{slot}.hub_revision={revision}: the hub has no such revision of {name}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{nowhere}, and the hub has no such model or hides it: check the name, or log in with 'hf auth login'"
        ) from error
    except Exception as error:  # which client the hub library uses, and what it raises, changes with its version
        raise ModelError(
            f"{nowhere}, the cache does not hold {name} at {revision}, and the hub cannot be reached "
            f"({first_line(error)}); download the model where there is a network, or give a checkpoint folder"
        ) from error
