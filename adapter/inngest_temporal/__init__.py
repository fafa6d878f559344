"""Inngest-style functions, run by Temporal.

`import inngest_temporal as inngest` serves a module that was written for the official Python SDK:
same names, same signatures.
"""

from .client import Inngest
from .context import Context, ContextSync
from .errors import (
    Error,
    FunctionConfigInvalidError,
    NonRetriableError,
    RetryAfterError,
    SendEventsError,
    StepError,
)
from .functions import Function
from .middleware import (
    Middleware,
    MiddlewareSync,
    Opcode,
    StepMemos,
    TransformOutputResult,
    TransformOutputStepInfo,
)
from .models import (
    JSON,
    Batch,
    Cancel,
    Checkpointing,
    Concurrency,
    Debounce,
    Event,
    ParallelMode,
    Priority,
    RateLimit,
    SendEventsResult,
    Signal,
    Singleton,
    Streaming,
    Throttle,
    Timeouts,
    TriggerCron,
    TriggerEvent,
)
from .serialization import PydanticSerializer, Serializer
from .steps import Group, GroupSync, Step, StepSync

__all__ = [
    "JSON",
    "Batch",
    "Cancel",
    "Checkpointing",
    "Concurrency",
    "Context",
    "ContextSync",
    "Debounce",
    "Error",
    "Event",
    "Function",
    "FunctionConfigInvalidError",
    "Group",
    "GroupSync",
    "Inngest",
    "Middleware",
    "MiddlewareSync",
    "NonRetriableError",
    "Opcode",
    "ParallelMode",
    "Priority",
    "PydanticSerializer",
    "RateLimit",
    "RetryAfterError",
    "SendEventsError",
    "SendEventsResult",
    "Serializer",
    "Signal",
    "Singleton",
    "Step",
    "StepError",
    "StepMemos",
    "StepSync",
    "Streaming",
    "Throttle",
    "Timeouts",
    "TransformOutputResult",
    "TransformOutputStepInfo",
    "TriggerCron",
    "TriggerEvent",
]
