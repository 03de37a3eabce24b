"""Options of reward=llm_judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignpipe.errors import ConfigError
from alignpipe.options import RequestOptions, check_at_least, check_pattern, check_url
from alignpipe.paths import user_path

if TYPE_CHECKING:
    from alignpipe.rewarding.remote import Secrets

KEY = "the API key"
_BODY = ("model", "messages", "temperature", "max_tokens", "stream", "n")


class Mode(Enum):
    """What the judge is asked."""

    pointwise = "pointwise"
    """A grade for the response."""
    pairwise = "pairwise"
    """Which is better, the response or the reference."""


@dataclass(frozen=True)
class LlmJudgeConfig(RequestOptions):
    """Which model judges, how it is asked, how its answer is read, and how patient to be."""

    model: str = field(default="???", metadata={"help": "the judge's name at the endpoint; pin a dated one"})
    base_url: str = field(
        default="https://api.openai.com/v1",
        metadata={"help": "the endpoint, without /chat/completions: a provider's, or of vLLM, llama.cpp, Ollama ..."},
    )
    api_key_env: str | None = field(
        default="OPENAI_API_KEY",
        metadata={"help": "environment variable that holds the key; null: no key is sent", "fingerprint": False},
    )
    mode: Mode = field(
        default=Mode.pointwise, metadata={"help": "pointwise (a grade) or pairwise (better than the reference?)"}
    )
    reference: str | None = field(
        default=None,
        metadata={"help": "column with a reference answer: pairwise compares with it, pointwise shows it; null: none"},
    )
    swap: bool = field(
        default=True, metadata={"help": "pairwise: ask twice, each answer once in front, and take the mean"}
    )
    template: str | None = field(
        default=None, metadata={"help": "a Jinja file with the question; null: a general one", "fingerprint": False}
    )
    system: str | None = field(default=None, metadata={"help": "a system message in front of the question; null: none"})
    low: float = field(default=1.0, metadata={"help": "pointwise: the worst grade; it becomes 0"})
    high: float = field(default=10.0, metadata={"help": "pointwise: the best grade; it becomes 1"})
    parts: list[str] = field(
        default_factory=list,
        metadata={"help": "pointwise: more grades in the JSON of the answer (same scale) that become parts"},
    )
    pattern: str | None = field(
        default=None,
        metadata={"help": "regular expression whose group 1 is the grade, or A, B or tie; null: the answer's JSON"},
    )
    temperature: float | None = field(default=0.0, metadata={"help": "of the judge; null: not sent"})
    max_tokens: int | None = field(default=512, metadata={"help": "most tokens of its answer; null: not sent"})
    extra: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "more fields of the request's body, as {seed: 1, top_p: 1}"}
    )
    cache: str | None = field(
        default="outputs/cache/llm_judge",
        metadata={"help": "folder that keeps answers and usage.jsonl; null: nothing is kept", "fingerprint": False},
    )
    price_in: float = field(
        default=0.0, metadata={"help": "price of a million prompt tokens, for usage.jsonl", "fingerprint": False}
    )
    price_out: float = field(
        default=0.0, metadata={"help": "price of a million tokens of answers, for usage.jsonl", "fingerprint": False}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(self, "base_url")
        check_at_least(self, 0, "price_in", "price_out")
        if self.max_tokens is not None:
            check_at_least(self, 1, "max_tokens")
        if not self.low < self.high:
            raise ValueError(f"low must be below high={self.high:g}, got {self.low:g}")
        if self.mode is Mode.pairwise and not self.reference:
            raise ValueError("reference must name the column to compare with when mode=pairwise")
        if self.parts and (self.mode is Mode.pairwise or self.pattern is not None):
            raise ValueError(f"parts are read from the JSON of pointwise answers only, got {self.parts}")
        if "score" in self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts must name each further grade once, and not score; got {self.parts}")
        taken = sorted(set(_BODY) & set(self.extra))
        if taken:
            raise ValueError(f"extra must not set {', '.join(taken)}: there are options for that, or it would break")
        if self.pattern is not None:
            _check_pattern(self.pattern)

    def secrets(self) -> Secrets:
        """The key, under the name `KEY`, if one is to be sent.

        Raises `RewardError` if its environment variable is not set.
        """
        from alignpipe.rewarding.remote import Secrets

        return Secrets({} if self.api_key_env is None else {KEY: self.api_key_env}, "reward.api_key_env")

    def check_machine(self) -> None:
        """Raise `RewardError` without httpx or without the key."""
        from alignpipe.rewarding.remote import need_httpx

        need_httpx("reward=llm_judge")
        self.secrets()

    def revision(self) -> Mapping[str, str]:
        """The digest of the template's file, for the stage key.

        Raises `ConfigError` for a file that cannot be read or is no template.
        """
        import hashlib

        from alignpipe_plugins.llm_judge.questions import Question

        Question(self)
        return {"template": hashlib.sha256(self.template_text().encode()).hexdigest()}

    def template_text(self) -> str:
        """The template of the question: the file's, or the built-in one of the mode.

        Raises `ConfigError` for a file that cannot be read.
        """
        built_in = Path(__file__).parent / "templates" / f"{self.mode.value}.jinja"
        path = built_in if self.template is None else user_path(self.template)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"reward.template={path} cannot be read: {error}") from error


def _check_pattern(pattern: str) -> None:
    import regex

    check_pattern("pattern", pattern)
    if regex.compile(pattern).groups < 1:
        raise ValueError(f"pattern must have a group, as in 'Grade: (\\d+)'; got {pattern!r}")
