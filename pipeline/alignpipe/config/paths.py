"""Where the YAML tree lies: inside an installed package, or in the repository."""

from __future__ import annotations

from pathlib import Path

import alignpipe
from alignpipe.errors import ConfigError


def conf_dir() -> Path:
    """The absolute folder of `config.yaml`: in a wheel `alignpipe/conf`, in an editable install `conf/`.

    Raises `ConfigError` if neither is there.
    """
    package = Path(alignpipe.__file__).resolve().parent
    candidates = (package / "conf", package.parents[1] / "conf")
    for folder in candidates:
        if (folder / "config.yaml").is_file():
            return folder
    tried = " nor ".join(map(str, candidates))
    raise ConfigError(f"config.yaml is neither in {tried}; install alignpipe again")
