"""Where an update's time goes."""

from __future__ import annotations

import time


class Clock:
    """Seconds per phase of one update, and the tokens sampled in it."""

    def __init__(self) -> None:
        self.tokens = 0
        self._begin = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """Book the time since the last lap under `phase`."""
        now = time.perf_counter()
        self._laps[phase] = self._laps.get(phase, 0.0) + now - self._last
        self._last = now

    def figures(self) -> dict[str, float]:
        """`time/<phase>` in seconds, and sampled tokens per second of the whole update."""
        total = time.perf_counter() - self._begin
        laps = {f"time/{phase}": seconds for phase, seconds in self._laps.items()}
        return {**laps, "time/update": total, "perf/tokens_per_second": self.tokens / total}
