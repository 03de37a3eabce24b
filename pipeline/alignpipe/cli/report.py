"""From an exception to the one message a user gets; what a sentence cannot say is a bug and keeps its traceback."""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from alignpipe.api import SLOTS
from alignpipe.cli.unreadable import advice
from alignpipe.config.checks import how_to_fill
from alignpipe.config.model import RunSettings
from alignpipe.errors import AlignpipeError, did_you_mean
from alignpipe.registry import registry

_FOLDER_ERRORS = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""What can be wrong with a folder that the user chose."""


_FOLDER_KEYS = ("hydra.sweep.dir", "hydra.run.dir")
"""What names a run's folder in place of `outputs`, if it is given."""


class JobFailed(AlignpipeError):
    """A job of a sweep failed; its own error was reported where it ran."""


class RunFailed(BaseException):
    """Carries a single run's error past Hydra, which would print the overrides beside it, to `main`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def report(error: BaseException) -> None:
    """Write the error's message to stderr."""
    sys.stdout.flush()
    sys.stderr.write(f"alignpipe: error: {message_of(error) or error}\n")
    sys.stderr.flush()


def message_of(error: BaseException) -> str | None:
    """What the user is told; None for an error that is a bug of ours or of a plugin."""
    if isinstance(error, AlignpipeError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, HydraException):
        return _composition(error)
    if isinstance(error, OmegaConfBaseException):
        return _omegaconf(error)
    mark = getattr(error, "problem_mark", None)  # PyYAML's: where in the file
    if mark is not None:
        return f"{mark.name}:{mark.line + 1}: this is no YAML: {getattr(error, 'problem', error)}"
    if isinstance(error, AssertionError | AttributeError) and _raised_by("omegaconf", error):
        return (
            "the overrides cannot be used: one sets a key below another that is null by default, which OmegaConf takes "
            "from files only: write it into an experiment of your own (README, Change something)"
        )
    if isinstance(error, ValueError) and _raised_by("hydra", error):
        hint = "; a stage is left out with stages=[...], W&B with tracker=[]" if "NoneType" in str(error) else ""
        return f"the overrides cannot be used: {error}{hint}"
    if isinstance(error, OSError) and (error.errno in _FOLDER_ERRORS or _no_folder_made(error)):
        where = error.filename or "the output folder"
        named = next((key for key in _FOLDER_KEYS if any(word.startswith(f"{key}=") for word in sys.argv)), "outputs")
        return f"cannot write {where}: {error.strerror}; choose another folder with {named}=<folder>, or make room"
    return None


def _raised_by(package: str, error: BaseException) -> bool:
    """Whether this package itself raised: Hydra checks some overrides (`sft=null`) and flags with a bare ValueError."""
    frame = _innermost(error)
    return frame is not None and str(frame.f_globals.get("__name__")).startswith(f"{package}.")


def _no_folder_made(error: OSError) -> bool:
    """Whether a folder could not be made where folders cannot be made at all; /proc calls that a missing file."""
    frame = _innermost(error)
    return isinstance(error, FileNotFoundError) and frame is not None and frame.f_code.co_name in ("mkdir", "makedirs")


def _innermost(error: BaseException) -> FrameType | None:
    """The frame that raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame if trace is not None else None


def _missing_option(error: MissingConfigException) -> str:
    """`reward=nope`, or a preset that is not there."""
    path = error.missing_cfg_file
    if not path or "/" not in path:
        return _joined(str(error).partition("Config search path")[0])
    group, _, name = path.lstrip("/").rpartition("/")
    options = list(error.options or registry().options(group))
    listing = f"; options: {', '.join(options)}" if options else "; no plugin offers one, see 'alignpipe plugins list'"
    if group.startswith("hydra/"):
        listing += "; others are packages of their own (pip install hydra-joblib-launcher, hydra-optuna-sweeper ...)"
    near = did_you_mean(name, options)
    if (own := Path("conf") / group / f"{name}.yaml").is_file():  # nobody's folder is read unless it is named
        near = f" ({own} lies here: add --config-dir conf)"
    return f"{group}={name}: there is no such option{near}{listing}"


def _composition(error: HydraException) -> str:
    """A config that Hydra could not compose; mostly OmegaConf refused a key or a value, which its cause tells."""
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {advice(error.override) or _joined(error.message)}"
    known = ((re.match(pattern, str(error)), sentence) for pattern, sentence in _HYDRA_SAYS.items())
    if found := next((sentence.format(*match.groups()) for match, sentence in known if match), ""):
        return found
    cause = error.__cause__ or error.__context__  # Hydra does not always say `from`
    if not isinstance(cause, OmegaConfBaseException):
        return _joined(str(error))
    source = re.match(r"In '([^']+)'", str(error))
    override = re.match(r"Error merging override (.+)", str(error))
    refused = re.match(r"Could not override '([^']+)'", str(error))
    where = f" (in conf/{source[1]}.yaml)" if source else f" (override {override[1]})" if override else ""
    given = override[1].partition("=")[0].lstrip("+~") if override else refused[1] if refused else ""
    return _omegaconf(cause, given) + where


_SLOT = "|".join(SLOTS)
_HYDRA_SAYS = {
    r"Ambiguous value for argument '([^=]+)=(.+)'": (
        "{0} has several values: add -m to run each of {1}, or write {0}=[{1}] for a list"
    ),
    rf"Error resolving interpolation '\$\{{({_SLOT})\}}', .*rollout": (
        "{0}: no option is chosen (~{0}?), and presets follow that choice: choose one with {0}=<option>; a stage is "
        "left out with stages=[...]"
    ),
    r"(Error resolving interpolation '.+?', possible interpolation keys.*)": (
        "{0}; scale follows the model or the experiment: choose one of those, or ~scale for none"
    ),
    r"Could not delete '(\w+)'": "~{0}: this cannot be taken away; write {0}=[] for none",
    r"Could not delete from config. '(.+)' does not exist": "~{0}: there is no such key",
}
"""What to tell instead of some of Hydra's own messages."""


def _omegaconf(error: OmegaConfBaseException, given: str = "") -> str:
    """`key: what is wrong`, with the keys that exist for one that does not; `given` is the override's key."""
    message = (error.msg or str(error)).splitlines()[0]
    key = error.full_key or ""
    key = given if given.endswith(f".{key}") else key  # below a plain dictionary OmegaConf forgets the keys above
    parent = key.rpartition(".")[0]
    option = _option_of(error)
    if not isinstance(error, ConfigAttributeError | ConfigKeyError):
        if " is not a ListConfig" in message:
            message = f"a list is wanted: write {key}=[<value>,...]"
        elif re.match(r"Cannot assign \w+ to Dict", message):
            message = f"keys of its own are wanted: write {key}.<key>=<value>"
        elif message.endswith("is not Optional"):
            message = "null is no value for it"
        message += f" in {parent}={option}" if option else ""
        return f"{key}: {message}" if key else message
    choices = _keys_beside(error)
    wrong = str(error.key)
    is_stage = given.startswith(f"{wrong}.") or re.search(r"_\d+$", wrong)  # not sft_lr=1, which wants sft.lr
    if is_stage and not parent and (unfilled := how_to_fill(wrong, registry())) is not None:
        return f"{wrong}: {unfilled}"
    parent = f"{parent}={option}" if option else parent
    listing = f"; keys{f' of {parent}' if parent else ''}: {', '.join(choices)}" if choices else ""
    if option and not choices:
        listing = f"; {parent} has none"
    return f"{key or wrong}: there is no such key{did_you_mean(wrong, choices)}{listing}"


def _option_of(error: OmegaConfBaseException) -> str | None:
    """The option whose key it is: `data.preferences` means one thing in data=support and another in data=files."""
    parent = error.parent_node
    if not isinstance(parent, DictConfig) or "name" not in parent:
        return None
    return str(parent["name"]) if "." not in parent._get_full_key(None) else None


def _keys_beside(error: OmegaConfBaseException) -> list[str]:
    """The keys that exist where a key was not found."""
    if is_dataclass(error.object_type):
        return [entry.name for entry in fields(error.object_type)]
    parent = error.parent_node
    if not isinstance(parent, DictConfig) or parent._get_parent() is None:
        groups = [group for group in registry().groups() if group not in SLOTS]
        return [*(entry.name for entry in fields(RunSettings)), *SLOTS, *groups]
    return [str(key) for key in parent]


def _joined(text: str) -> str:
    """A message of several lines as one."""
    lines = [line.strip().rstrip(".:") for line in text.splitlines() if not line.startswith("See https")]
    return "; ".join(filter(None, lines))
