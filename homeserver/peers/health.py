"""Health: which servers did not answer lately, so that nobody waits for them in vain.

Memory only, and bounded: what has to outlast the process is the sender's, who may be consulted here.
"""

from __future__ import annotations

from collections.abc import Callable

from federation.ids import ServerName
from homeserver.config.settings import Settings
from homeserver.runtime.clock import Clock

MAX_SERVERS = 10_000

Listener = Callable[[ServerName], object]


class _Outage:
    __slots__ = ("failures", "until_s")

    def __init__(self, failures: int, until_s: float) -> None:
        self.failures = failures
        self.until_s = until_s


class Health:
    """Hears how every request to another server ended, and tells those who want to know.

    Listeners are called at once; they must neither wait nor raise.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._outages: dict[ServerName, _Outage] = {}
        self._advisers: list[Callable[[ServerName], bool]] = []
        self._on_success: list[Listener] = []
        self._on_failure: list[Listener] = []
        self._on_contact: list[Listener] = []

    def consult(self, is_down: Callable[[ServerName], bool]) -> None:
        """Ask this too whether a server is down: it may remember outages of an earlier process."""
        self._advisers.append(is_down)

    def observe(
        self,
        *,
        on_success: Listener | None = None,
        on_failure: Listener | None = None,
        on_contact: Listener | None = None,
    ) -> None:
        """Hear of answers (any at all), of requests without one, and of signed requests from other servers."""
        for listener, listeners in (
            (on_success, self._on_success),
            (on_failure, self._on_failure),
            (on_contact, self._on_contact),
        ):
            if listener is not None:
                listeners.append(listener)

    def is_down(self, server_name: ServerName) -> bool:
        """Whether it failed lately, and its back-off has not ended."""
        outage = self._outages.get(server_name)
        if outage is not None and self._clock.monotonic() < outage.until_s:
            return True
        return any(is_down(server_name) for is_down in self._advisers)

    def succeeded(self, server_name: ServerName) -> None:
        """It answered."""
        self._outages.pop(server_name, None)
        for listener in self._on_success:
            listener(server_name)

    def failed(self, server_name: ServerName) -> None:
        """It did not answer."""
        limits = self._settings.config.federation
        now_s = self._clock.monotonic()
        outage = self._outages.pop(server_name, None) or _Outage(0, now_s)
        # Requests that failed side by side are one failure.
        if now_s >= outage.until_s:
            wait_s = min(limits.retry_min_s * 2.0 ** min(outage.failures, 40), limits.retry_max_s)
            outage = _Outage(outage.failures + 1, now_s + wait_s)
        self._outages[server_name] = outage
        if len(self._outages) > MAX_SERVERS:
            del self._outages[next(iter(self._outages))]
        for listener in self._on_failure:
            listener(server_name)

    def heard_from(self, server_name: ServerName) -> None:
        """It signed a request to us, so it is there."""
        self._outages.pop(server_name, None)
        for listener in self._on_contact:
            listener(server_name)
