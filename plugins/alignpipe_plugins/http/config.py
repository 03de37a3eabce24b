"""Options of reward=http."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alignpipe.options import RequestOptions, check_at_least, check_url

if TYPE_CHECKING:
    from alignpipe.rewarding.remote import Secrets


@dataclass(frozen=True)
class HttpConfig(RequestOptions):
    """Where the service is, which version of it, what it is sent, and how patient to be with it."""

    url: str = field(default="???", metadata={"help": "where samples are posted: http(s)://host[:port]/path"})
    service_version: str = field(
        default="1",
        metadata={"help": "any text; change it when the service's scores change: it is in the stage key, they are not"},
    )
    columns: list[str] | None = field(
        default=None, metadata={"help": "columns of the row that are sent, and must be there; null: all that there are"}
    )
    headers: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "headers to send, each with the name of the environment variable that holds its value",
            "fingerprint": False,
        },
    )
    batch_size: int = field(default=32, metadata={"help": "most samples of a request", "fingerprint": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(self, "url")
        check_at_least(self, 1, "batch_size")
        for name in self.headers:
            if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
                raise ValueError(f"headers.{name}: a header's name is made of letters, digits and -")

    def secrets(self) -> Secrets:
        """The values of the headers.

        Raises `RewardError` for one whose environment variable is not set.
        """
        from alignpipe.rewarding.remote import Secrets

        return Secrets(self.headers, "reward.headers")

    def check_machine(self) -> None:
        """Raise `RewardError` without httpx, and for a header whose environment variable is not set."""
        from alignpipe.rewarding.remote import need_httpx

        need_httpx("reward=http")
        self.secrets()
