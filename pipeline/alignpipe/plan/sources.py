"""What `inputs.<stage>.<port>` may say: a stage, base, none, store:<digest>, a checkpoint folder."""

from __future__ import annotations

from collections.abc import Sequence

from alignpipe.api import Kind, Port
from alignpipe.errors import ConfigError
from alignpipe.paths import user_path
from alignpipe.plan.specs import BASE, Source, StageSpec
from alignpipe.store import Store


def named_source(
    value: str, port: Port, label: str, stages: Sequence[str], earlier: Sequence[StageSpec], store: Store
) -> Source | None:
    """The source that the config names for a port of the stage after the `earlier` ones; None for `none`.

    Raises `ConfigError` with `label`, the key that names it.
    """
    if value == "none":
        return None
    if value == "base":
        _check_kind(label, "the base model", "policy", port.kind)
        return BASE
    if value.startswith("store:"):
        return _stored(value.removeprefix("store:"), port, label, store)
    if value in stages:
        maker = next((spec for spec in earlier if spec.name == value), None)
        if maker is None:
            raise ConfigError(
                f"{label}={value}: stage {value!r} does not run before {stages[len(earlier)]!r} "
                f"(stages={stages}); move it to the front or name an earlier one"
            )
        _check_kind(label, f"stage {value!r}", maker.makes, port.kind)
        return Source("stage", value)
    folder = user_path(value).absolute()
    if not folder.is_dir():
        raise ConfigError(
            f"{label}={value}: there is neither a stage {value!r} in this run (stages={stages}) nor a folder "
            f"{folder}; allowed are an earlier stage, base, none, store:<digest> or a checkpoint folder"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{label}={value}: {folder} is no checkpoint folder, it holds no config.json")
    _check_kind(label, f"the checkpoint folder {folder}", "policy", port.kind)
    return Source("checkpoint", str(folder))


def _stored(digest: str, port: Port, label: str, store: Store) -> Source:
    found = store.find(digest) if digest else []
    if not found:
        raise ConfigError(f"{label}=store:{digest}: the store has no such object; 'alignpipe store ls' lists them")
    if len({artifact.digest for artifact in found}) > 1:
        raise ConfigError(f"{label}=store:{digest} fits {len(found)} stored objects; give more digits of the digest")
    _check_kind(label, f"the stored object {digest}", found[0].kind, port.kind)
    return Source("store", found[0].digest)


def _check_kind(label: str, what: str, makes: Kind, needed: Kind) -> None:
    if makes != needed:
        raise ConfigError(f"{label}: {what} is a {makes}, but the port takes a {needed}")
