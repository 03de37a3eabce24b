"""Artifacts: the immutable results that stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignpipe.api.components import Kind


@dataclass(frozen=True)
class Artifact:
    """A stage's published result: a folder nobody writes to again.

    `folder` is the payload (for a policy: an ordinary Hugging Face checkpoint). `stage` names who made it, or is `base`
    for the run's base model and `checkpoint` for a folder the user named. `digest` covers the payload's bytes. The base
    model lies nowhere yet: its `folder` is `Path()`, its `digest` the word base.
    """

    kind: Kind
    stage: str
    folder: Path
    digest: str
