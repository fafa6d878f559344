"""Inngest's expression language: conditions and keys of functions, waits and cancellations.

`syntax` parses, `checks` refuses, `evaluator` evaluates, `conditions` splits the condition of a
wait.
"""

from .checks import check_condition, check_expression
from .conditions import (
    Scalar,
    WaitCondition,
    canonical_scalar,
    reduce_event,
    split_condition,
    value_at,
    whole_condition,
)
from .evaluator import Expression, compile_expression
from .syntax import MAX_LENGTH, UInt

__all__ = [
    "MAX_LENGTH",
    "Expression",
    "Scalar",
    "UInt",
    "WaitCondition",
    "canonical_scalar",
    "check_condition",
    "check_expression",
    "compile_expression",
    "reduce_event",
    "split_condition",
    "value_at",
    "whole_condition",
]
