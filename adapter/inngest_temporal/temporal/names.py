"""Names that the ingress, the workers and the operator of a Temporal cluster share: workflow types,
workflow ids, task queues and memos. Everything of ours in a namespace is found by them.
"""

import hashlib
import json

TASK_QUEUE_PREFIX = "inngest-"
"""Prefix of the task queues that we name."""

SYSTEM_TASK_QUEUE = f"{TASK_QUEUE_PREFIX}system"
"""Task queue of the entity workflows (registry, hubs, mailboxes); every worker process polls it."""

HTTP_TASK_QUEUE = f"{TASK_QUEUE_PREFIX}http"
"""Task queue of the runs of all functions that are served over HTTP."""

EVENTS_MEMO = "inngestEvents"
"""Memo of every run: the internal ids of the events that started it."""

TRIGGER_MEMO = "inngestTrigger"
"""Memo of a run: the name of the event that started it, for people."""

ORIGINAL_MEMO = "inngestOriginal"
"""Memo of a rerun: the id of the run whose events it has."""

REGISTRY_TYPE = "InngestRegistry"
APP_TYPE = "InngestApp"
HUB_TYPE = "InngestHub"
MAILBOX_TYPE = "InngestMailbox"
CRON_TYPE = "InngestCron"
SIGNAL_TYPE = "InngestSignal"
RATE_LIMIT_TYPE = "InngestRateLimit"
DEBOUNCE_TYPE = "InngestDebounce"
BATCH_TYPE = "InngestBatch"
INTAKE_TYPE = "InngestIntake"
REPLAY_TYPE = "InngestReplay"
LOCK_TYPES = {
    "pause": "InngestPause",
    "singleton": "InngestSingleton",
    "throttle": "InngestThrottle",
    "run": "InngestConcurrency",
    "step": "InngestConcurrency",
}
"""Workflow type of each kind of lock."""

_LOCK_NAMES = {"run": "runs", "step": "concurrency"}

STATUS_MEMO = "inngestStatus"
"""Memo of a run whose status in Inngest is not Temporal's: `Skipped`."""

ENVIRONMENT_ID = "00000000-0000-4000-b000-000000000000"
"""Id of the only environment of Inngest's development server."""

REGISTRY_ID = "inngest:registry"
SCHEDULE_PREFIX = "inngest:cron:"


def app_id(app: str) -> str:
    """Workflow id of the entity that holds one app's configuration."""
    return f"inngest:app:{app}"


def task_queue(app: str) -> str:
    """Default task queue of an app's runs and steps."""
    return f"{TASK_QUEUE_PREFIX}{app}"


def hub_id(event_name: str) -> str:
    """Workflow id of the hub of one event name."""
    return f"inngest:hub:{event_name}"


def mailbox_id(event_name: str, path: str, value: object) -> str:
    """Workflow id of the mailbox for events whose value at `path` is `value`; the empty path is for
    all events of the name.

    Only the name stays readable, because Temporal limits ids to 1,000 bytes.
    """
    if not path:
        return f"inngest:mailbox:{event_name}"
    return f"inngest:mailbox:{event_name}:{digest(path, value)}"


MAX_EVENT_NAME_BYTES = 512
"""Maximum size of an event name, as in Inngest where it has a limit: the name is part of workflow
ids, which Temporal limits to 1,000."""
MAX_SIGNAL_BYTES = 900
"""Maximum size of a signal's name: it is part of a workflow id, which Temporal limits to 1,000."""


MAX_FUNCTION_ID_BYTES = 900
"""Maximum size of a function's full id: it is a workflow type and part of workflow ids, which
Temporal limits to 1,000."""


def signal_id(signal: str) -> str:
    """Workflow id of the entity of one signal."""
    return f"inngest:signal:{signal}"


def schedule_id(app: str, function_id: str, cron: str) -> str:
    """Id of the schedule of one cron trigger. It depends neither on the space between the fields
    nor on the jitter."""
    return f"{SCHEDULE_PREFIX}{function_id}:{digest(app, ' '.join(cron.split()))}"


def intake_id(events: list[str]) -> str:
    """Id of the workflow that routes the events of a large request, from their internal ids."""
    return f"inngest:intake:{events[0]}:{digest(events)}"


def replay_id(id: str) -> str:
    """Workflow id of a replay."""
    return f"inngest:replay:{id}"


def cancellation_id(ulid: str) -> str:
    """Job id of the batch operation of a bulk cancellation."""
    return f"inngest:cancellation:{ulid}"


def gate_id(kind: str, function_id: str, *key: object) -> str:
    """Workflow id of a gate (`ratelimit`, `debounce`, `batch`) of a function; `key` is the value of
    its key, if it has one."""
    return ":".join([f"inngest:{kind}:{function_id}", *([digest(*key)] if key else [])])


def lock_id(kind: str, owner: str, key: str | None = None, value: object = None) -> str:
    """Workflow id of a lock of a function or, if functions share it, of its scope; `key` is the key
    expression, if there is one."""
    base = f"inngest:{_LOCK_NAMES.get(kind, kind)}:{owner}"
    return f"{base}:{digest(key)}:{digest(value)}" if key else base


def lock_prefix(kind: str, owner: str, key: str) -> str:
    """Prefix of the ids of all locks of one key expression."""
    return lock_id(kind, owner, key).rpartition(":")[0] + ":"


def digest(*parts: object) -> str:
    """A short, stable, URL-safe digest of JSON values."""
    return hashlib.sha256(
        json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()[:24]


def summary_of(name: str) -> str:
    """A step's name as the summary of its timers and activities, which may have 400 bytes in
    Temporal."""
    name = name.encode(errors="replace").decode()
    return name if len(name) <= 100 else name[:99] + "…"
