"""Settings from the environment, and the connection to Temporal. Inngest's variables are for HTTP,
Temporal's own for the connection."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.envconfig import ClientConfig
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from inngest_temporal.errors import SettingsInvalidError

RPC_TIMEOUT = timedelta(seconds=3)
"""Limit of one attempt of a call for which a sender waits."""
RETRIES = RetryConfig(
    initial_interval_millis=300, multiplier=2, max_elapsed_time_millis=2_000, max_retries=2
)
"""Short, so that a sender soon learns that Temporal can't be reached, and can try again."""
_REFUSALS = (
    RPCStatusCode.INVALID_ARGUMENT,
    RPCStatusCode.PERMISSION_DENIED,
    RPCStatusCode.UNAUTHENTICATED,
    RPCStatusCode.UNIMPLEMENTED,
)


class DashboardMode(StrEnum):
    """Whether, and how, the ingress serves the dashboard."""

    ON = "on"
    READ_ONLY = "read-only"
    OFF = "off"


@dataclass(frozen=True)
class Settings:
    """The settings of an ingress."""

    event_keys: tuple[str, ...] = ()
    """Each of these allows sending events. Without keys anyone may send in dev mode, and no one
    otherwise."""
    signing_keys: tuple[str, ...] = ()
    """Each of these allows reading and cancelling runs; without keys the same holds."""
    dev: bool = False
    dashboard: DashboardMode = DashboardMode.ON
    temporal_ui_url: str = ""
    """Address of Temporal's Web UI, for links; empty: no links."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """From `INNGEST_EVENT_KEY` (several keys are separated by commas), `INNGEST_SIGNING_KEY`,
        `INNGEST_SIGNING_KEY_FALLBACK`, `INNGEST_TEMPORAL_DASHBOARD`, `INNGEST_TEMPORAL_UI_URL`, and
        `INNGEST_DEV`: as in the official SDKs, anything but empty, `0` or `false` is dev mode.

        Raises `SettingsInvalidError`."""
        environ = os.environ if environ is None else environ
        signing = (
            environ.get("INNGEST_SIGNING_KEY", ""),
            environ.get("INNGEST_SIGNING_KEY_FALLBACK", ""),
        )
        return cls(
            event_keys=tuple(
                filter(None, map(str.strip, environ.get("INNGEST_EVENT_KEY", "").split(",")))
            ),
            signing_keys=tuple(filter(None, map(str.strip, signing))),
            dev=environ.get("INNGEST_DEV", "").strip().lower() not in ("", "0", "false"),
            dashboard=_dashboard_mode(environ.get("INNGEST_TEMPORAL_DASHBOARD", "")),
            temporal_ui_url=environ.get("INNGEST_TEMPORAL_UI_URL", "").strip().rstrip("/"),
        )


def _dashboard_mode(text: str) -> DashboardMode:
    try:
        return DashboardMode(text.strip().lower() or "on")
    except ValueError:
        raise SettingsInvalidError(
            f"INNGEST_TEMPORAL_DASHBOARD is {text!r}; set it to on, read-only or off."
        ) from None


async def connect(*, lazy: bool = True, **overrides: Any) -> Client:
    """A client for Temporal, as configured by `TEMPORAL_ADDRESS` and Temporal's other variables, or
    by its configuration file.

    A lazy client is for serving requests. It connects with its first call, so a process can start
    before Temporal does, and its calls give up within about 3 seconds if Temporal can't be reached.
    A client that is not lazy is for a worker. It is as patient as the SDK, so that results survive
    a short outage. It raises `RuntimeError` if Temporal can't be reached. `overrides` are arguments
    of `temporalio.client.Client.connect`.
    """
    config: dict[str, Any] = {
        "target_host": "localhost:7233",
        **ClientConfig.load_client_connect_config(),
    }
    if lazy:
        config["retry_config"] = RETRIES
    return await Client.connect(**{**config, "lazy": lazy, **overrides})


def handle_of(client: Client, id: str) -> WorkflowHandle[Any, Any]:
    """The handle of a workflow whose id a sender wrote. Raises `RPCError` (not found) for one with
    a NUL, which no workflow has: some of the databases below Temporal fail if they are asked."""
    if "\0" in id:
        raise RPCError("An id has no NUL character.", RPCStatusCode.NOT_FOUND, b"")
    return client.get_workflow_handle(id)


def is_not_found(error: RPCError) -> bool:
    """Whether a workflow does not exist. A namespace that does not exist has the same status, but
    says nothing of its workflows."""
    return error.status == RPCStatusCode.NOT_FOUND and not any(
        detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details
    )


def is_temporary(error: BaseException) -> bool:
    """Whether a call or a worker that failed with this error may succeed later by itself, because
    Temporal was away, busy or starting. A missing namespace may be created later, too.
    """
    if isinstance(error, RPCError):
        return error.status not in _REFUSALS
    # A client that can't connect and a worker that can't start raise a RuntimeError. Only its text
    # says why.
    text = str(error)
    return isinstance(error, TimeoutError) or (
        any(failed in text for failed in ("Failed client connect", "Worker validation failed"))
        and not any(code in text for code in ("Unauthenticated", "PermissionDenied", "InvalidArg"))
    )


def place_of(address: str, namespace: str) -> str:
    """Where Temporal is, as messages say it."""
    return f"{address}, namespace {namespace}"


def problem_of(error: BaseException, place: str) -> str | None:
    """Why Temporal can't be used at this place (`place_of`), with the settings to look at; None if
    the error is not about the connection."""
    missing = isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND
    missing = missing or ("Namespace" in str(error) and "not found" in str(error))
    if missing and is_temporary(error):
        return (
            f"Temporal at {place}: there is no such namespace. Create it, or set"
            " TEMPORAL_NAMESPACE. Trying until it is there."
        )
    if is_temporary(error):
        return (
            f"Temporal can't be reached at {place}. Trying until it can; TEMPORAL_ADDRESS"
            " and TEMPORAL_NAMESPACE say where it is."
        )
    if isinstance(error, RPCError) or "Failed client connect" in str(error):
        return (
            f"Temporal at {place} refuses this process: {error}. Check"
            " TEMPORAL_NAMESPACE, TEMPORAL_API_KEY and the TLS settings."
        )
    return None


async def find_namespace(client: Client) -> None:
    """Raises `RPCError` if Temporal or the client's namespace is not there yet, or refuses this
    process."""
    request = DescribeNamespaceRequest(namespace=client.namespace)
    await client.workflow_service.describe_namespace(request, timeout=RPC_TIMEOUT)
