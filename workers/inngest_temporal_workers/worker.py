"""The worker process: the functions of one app on the app's task queue."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from inngest_temporal.functions import Function
from inngest_temporal.temporal import names

from .grace import GRACE
from .plugin import InngestPlugin, set_build_id


def create_worker(
    client: Client,
    functions: Sequence[Function[Any]],
    *,
    task_queue: str | None = None,
    retry_interval: timedelta | None = None,
    max_threads: int | None = None,
    **options: Any,
) -> Worker:
    """A Temporal worker for only these functions; `options` are those of
    `temporalio.worker.Worker`."""
    plugin = InngestPlugin(functions, retry_interval=retry_interval, max_threads=max_threads)
    options.setdefault("graceful_shutdown_timeout", GRACE)
    set_build_id(options)
    plugins = [*options.pop("plugins", []), plugin]
    return Worker(
        client, task_queue=task_queue or names.task_queue(plugin.app_id), plugins=plugins, **options
    )
