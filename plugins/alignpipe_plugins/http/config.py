"""Options of reward=http."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignpipe.options import RequestOptions, check_at_least, check_url


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
