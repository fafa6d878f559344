"""This package has the names and parameters of the official SDK, except for what `parity_ledger`
explains."""

import enum
import inspect
from typing import Any, cast

import inngest
import inngest._internal.errors
import inngest._internal.middleware_lib
import inngest._internal.server_lib
import inngest._internal.step_lib
import pydantic
import pytest

import inngest_temporal
import inngest_temporal.errors
from tests import parity_ledger

# The official SDK does not export these, but users meet them: ctx.group, a hook's argument, what
# send raises.
REACHABLE: dict[str, Any] = {
    "Error": inngest._internal.errors.Error,
    "FunctionConfigInvalidError": inngest._internal.errors.FunctionConfigInvalidError,
    "Group": inngest._internal.step_lib.Group,
    "GroupSync": inngest._internal.step_lib.GroupSync,
    "Opcode": inngest._internal.server_lib.Opcode,
    "SendEventsError": inngest._internal.errors.SendEventsError,
    "TransformOutputStepInfo": inngest._internal.middleware_lib.TransformOutputStepInfo,
}

# Attributes that are set in the constructor show only on an instance.
OFFICIAL_INSTANCES = {
    "Inngest": inngest.Inngest(app_id="app", is_production=False),
    "Step": inngest.Step(*[cast(Any, None)] * 5),
    "StepSync": inngest.StepSync(*[cast(Any, None)] * 5),
}
OUR_INSTANCES = {
    "Inngest": inngest_temporal.Inngest(app_id="app", is_production=False),
    "Step": inngest_temporal.Step(cast(Any, None)),
    "StepSync": inngest_temporal.StepSync(cast(Any, None)),
}

Parameters = list[tuple[str, str, bool]]


def surface(name: str, thing: Any) -> dict[str, Parameters | None]:
    """Everything public about an exported thing: the parameters of callables, None for everything
    else."""
    found: dict[str, Parameters | None] = {name: None}
    if not inspect.isclass(thing):
        return found
    if not issubclass(thing, enum.Enum):
        found[name] = parameters(thing)
    inherited = pydantic.BaseModel if issubclass(thing, pydantic.BaseModel) else object
    for member_name in dir(thing):
        if member_name.startswith("_") or hasattr(inherited, member_name):
            continue
        member = inspect.getattr_static(thing, member_name)
        called = callable(member) or isinstance(member, classmethod | staticmethod)
        found[f"{name}.{member_name}"] = parameters(getattr(thing, member_name)) if called else None
    return found


def parameters(callee: Any) -> Parameters | None:
    try:
        signature = inspect.signature(callee)
    except ValueError:  # implemented in C, so not ours
        return None
    return [
        (parameter.name, parameter.kind.name, parameter.default is not parameter.empty)
        for parameter in signature.parameters.values()
    ]


def attributes(instances: dict[str, Any]) -> dict[str, Parameters | None]:
    public = {
        name: [key for key in vars(instance) if not key.startswith("_")]
        for name, instance in instances.items()
    }
    return {f"{name}.{attribute}": None for name, found in public.items() for attribute in found}


def official_surface() -> dict[str, Parameters | None]:
    found = attributes(OFFICIAL_INSTANCES)
    for name in inngest.__all__:
        found |= surface(name, getattr(inngest, name))
    for name, thing in REACHABLE.items():
        members = surface(name, thing)
        del members[name]  # reachable, not exported
        found |= members
    return found


def our_surface() -> dict[str, Parameters | None]:
    found = attributes(OUR_INSTANCES)
    for name in inngest_temporal.__all__:
        found |= surface(name, getattr(inngest_temporal, name))
    return found


OFFICIAL = official_surface()
OURS = our_surface()


def test_what_is_missing_is_what_the_ledger_says() -> None:
    assert OFFICIAL.keys() - OURS.keys() == parity_ledger.MISSING.keys()


def test_what_is_added_is_what_the_ledger_says() -> None:
    assert OURS.keys() - OFFICIAL.keys() == parity_ledger.ADDED.keys()


def test_what_has_other_parameters_is_what_the_ledger_says() -> None:
    different = {name for name in OFFICIAL.keys() & OURS.keys() if OFFICIAL[name] != OURS[name]}
    assert different == parity_ledger.DIFFERENT.keys()


@pytest.mark.parametrize(
    "entries", [parity_ledger.MISSING, parity_ledger.ADDED, parity_ledger.DIFFERENT]
)
def test_every_entry_of_the_ledger_has_a_reason(entries: dict[str, str]) -> None:
    assert all(entries.values())


def test_the_package_exports_all_31_names_and_what_it_says() -> None:
    assert len(inngest.__all__) == 31
    assert set(inngest.__all__) <= set(inngest_temporal.__all__)
    assert all(hasattr(inngest_temporal, name) for name in inngest_temporal.__all__)


@pytest.mark.parametrize(
    "name", [name for name in dir(inngest) if isinstance(getattr(inngest, name), enum.EnumMeta)]
)
def test_enums_have_the_official_values(name: str) -> None:
    ours, official = getattr(inngest_temporal, name), getattr(inngest, name)
    assert {member.name: member.value for member in ours} == {
        member.name: member.value for member in official
    }


def test_opcodes_and_error_codes_have_the_official_values() -> None:
    for ours, official in (
        (inngest_temporal.Opcode, inngest._internal.server_lib.Opcode),
        (inngest_temporal.errors.ErrorCode, inngest._internal.server_lib.ErrorCode),
    ):
        values = {member.name: member.value for member in ours}
        added = {name for name in values if f"{ours.__name__}.{name}" in parity_ledger.ADDED}
        shared = {name: value for name, value in values.items() if name not in added}
        assert shared.items() <= {member.name: member.value for member in official}.items()


def test_errors_have_the_official_codes_and_flags() -> None:
    compared = []
    for name, ours in inspect.getmembers(inngest_temporal.errors, inspect.isclass):
        official = getattr(inngest._internal.errors, name, None)
        if official is None or not issubclass(ours, inngest_temporal.Error):
            continue
        compared.append(name)
        for attribute in ("is_retriable", "include_stack"):
            assert getattr(ours, attribute) == getattr(official, attribute), name
        assert ours.code.value == official.code.value, name
    assert len(compared) >= 13


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("Batch", {"max_size": 5, "timeout": 90_000, "key": "k", "if_exp": "e"}),
        ("Cancel", {"event": "a", "if_exp": "e", "timeout": 60_000}),
        ("Concurrency", {"limit": 5, "key": "k", "scope": "env"}),
        ("Debounce", {"period": 1000, "key": "k", "timeout": 604_800_000}),
        ("Event", {"name": "a", "data": {"x": (1, None)}, "id": "i", "ts": 5}),
        ("Event", {"name": "a", "data": None}),
        ("Priority", {"run": "1"}),
        ("RateLimit", {"limit": 1, "period": 3_600_000}),
        ("SendEventsResult", {"error": "e", "ids": ["i"]}),
        ("Singleton", {"mode": "skip"}),
        ("Throttle", {"limit": 1, "period": 86_400_000}),
        ("Timeouts", {"finish": 1000}),
        ("TriggerCron", {"cron": "@daily", "jitter": "5s"}),
        ("TriggerEvent", {"event": "a", "expression": "e"}),
    ],
)
def test_models_are_written_as_the_official_ones(model: str, fields: dict[str, Any]) -> None:
    ours, official = getattr(inngest_temporal, model)(**fields), getattr(inngest, model)(**fields)
    assert ours.to_dict() == official.to_dict()
    assert repr(ours) == repr(official)
