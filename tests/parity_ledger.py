"""Where this package's public names differ from the official SDK's (inngest 0.5.19) on purpose, and
why.

`test_parity` compares every exported name, and of every class the constructor and the public
members: parameters by name, kind, order and presence of a default. What it finds must be exactly
what is listed here.
"""

_PLUMBING = (
    "plumbing of the official models; ours convert errors and durations by their base class and"
    " types"
)
_POSITIONAL = "the official *args raises a TypeError for any argument, as ours does without it"
_CHECKPOINTING = "an option of the JavaScript SDK, which the Python SDK lacks"
_MODELS = (
    "Batch",
    "Cancel",
    "Concurrency",
    "Debounce",
    "Event",
    "Priority",
    "RateLimit",
    "SendEventsResult",
    "Singleton",
    "Throttle",
    "Timeouts",
    "TriggerCron",
    "TriggerEvent",
)

MISSING: dict[str, str] = {
    **{f"{model}.convert_validation_error": _PLUMBING for model in _MODELS},
    "Batch.serialize_timeout": _PLUMBING,
    "Cancel.serialize_timeout": _PLUMBING,
    "Debounce.serialize_period": _PLUMBING,
    "Debounce.serialize_timeout": _PLUMBING,
    "Function.call": "executes the handler for an HTTP request; here the driver does that",
    "Function.call_sync": "as Function.call",
    "FunctionConfigInvalidError.from_validation_error": _PLUMBING,
    "RateLimit.serialize_period": _PLUMBING,
    "Step.ai": "experimental; for a later version",
    "StepSync.ai": "as Step.ai",
    "Throttle.serialize_period": _PLUMBING,
    "Timeouts.serialize_finish": _PLUMBING,
    "Timeouts.serialize_start": _PLUMBING,
}
"""What the official SDK has and this package lacks."""

_SIGNALS = "the JavaScript SDK's, in the Python SDK's style"

ADDED: dict[str, str] = {
    "Error": "the base of what this package raises, to be caught",
    "Function.parts": "what a worker runs for the function",
    "FunctionConfigInvalidError": "raised at registration, to be caught",
    "Group": "the type of ctx.group, for annotations",
    "GroupSync": "the type of ctx.group, for annotations",
    "Inngest.serializer": "what it was given, for the driver",
    "Opcode": "the type of TransformOutputStepInfo.op, for middleware",
    "Opcode.WAIT_FOR_SIGNAL": _SIGNALS,
    "SendEventsError": "raised by send, to be caught",
    "Signal": _SIGNALS,
    "Signal.from_raw": _SIGNALS,
    "Signal.to_dict": _SIGNALS,
    "Checkpointing": _CHECKPOINTING,
    "Checkpointing.from_raw": _CHECKPOINTING,
    "Checkpointing.max_interval_ms": _CHECKPOINTING,
    "Checkpointing.max_runtime_ms": _CHECKPOINTING,
    "Checkpointing.to_dict": _CHECKPOINTING,
    "Step.send_signal": _SIGNALS,
    "Step.wait_for_signal": _SIGNALS,
    "StepSync.send_signal": _SIGNALS,
    "StepSync.wait_for_signal": _SIGNALS,
    "TransformOutputStepInfo": "the type of TransformOutputResult.step, for middleware",
}
"""What this package has and the official SDK lacks, or does not export."""

DIFFERENT: dict[str, str] = {
    **dict.fromkeys(_MODELS, _POSITIONAL),
    "Inngest": _CHECKPOINTING,
    "Inngest.create_function": _CHECKPOINTING,
    "Function": "made by create_function, not by users: ours knows its client",
    "Step": "made by the driver, not by users",
    "StepSync": "made by the driver, not by users",
}
"""What has other parameters."""
