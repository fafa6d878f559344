"""The options of `inngest-temporal dev`."""

from collections.abc import Sequence
from dataclasses import dataclass

from .logs import LogFormat, LogLevel
from .processes import url_of
from .sources import Source

GRACE_SECONDS = 2.0
"""Time for running steps when the worker is restarted: somebody waits for the restart."""


@dataclass(frozen=True)
class DevOptions:
    """The options of the command."""

    source: Source | None
    """None: `dev` starts no worker."""
    host: str
    port: int
    temporal_port: int
    ui_port: int
    reload: bool
    db_filename: str | None
    retry_interval: float | None
    log_level: LogLevel
    log_format: LogFormat
    app_urls: Sequence[str] = ()
    """Apps that are served over HTTP."""
    discovers: bool = False
    """Whether to look for such apps."""
    dashboard: str = "on"
    """The ingress's `DashboardMode`."""

    @property
    def follows_apps(self) -> bool:
        """Whether there may be apps that are served over HTTP to look at."""
        return bool(self.app_urls) or self.discovers

    @property
    def url(self) -> str:
        """Address of the ingress."""
        return url_of(self.host, self.port)
