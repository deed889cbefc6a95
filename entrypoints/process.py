"""What every command that runs a process does at its start: log to stderr, serve metrics."""

import logging
from typing import TYPE_CHECKING

from schemas.errors import RetryableError

from .settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def log_to_stderr() -> None:
    """Log from INFO on, with time, level and logger."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def serve_metrics(port: int) -> "CollectorRegistry":
    """A Prometheus registry, served when a port is given. Raises RetryableError for one that is taken."""
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - only when run

    metrics = CollectorRegistry()
    if port:
        host = Settings.load().metrics_host
        try:
            start_http_server(port, addr=host, registry=metrics)
        except OSError as taken:
            fix = "end what listens there, or give another --metrics-port"
            raise RetryableError(f"{host}:{port} cannot be bound: {fix}") from taken
    return metrics
