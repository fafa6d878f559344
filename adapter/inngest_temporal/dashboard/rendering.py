"""Templates, and the form of times, durations and JSON in them.

Everything that a template is given is escaped. JSON is written as a tree that folds, whose text is
the JSON itself, so that it can be copied.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

MAX_TREE_NODES = 2_000
"""JSON with more values is written as text, which a browser shows faster."""
MAX_TEXT = 200_000
"""Maximum length of such a text, in characters."""
OPEN_DEPTH = 3
"""Depth to which a tree is unfolded."""
MAX_OPEN_ITEMS = 50
"""Lists and objects with more items are folded."""

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"))


def duration(ms: float | None) -> str:
    """A duration for people: `340 ms`, `1.24 s`, `3 min 20 s`, `2 d 4 h`."""
    if ms is None:
        return "–"
    whole = max(0, round(ms))
    if whole < 1_000:
        return f"{whole} ms"
    if whole < 60_000:
        text = f"{whole / 1000:.2f}" if whole < 10_000 else f"{whole / 1000:.1f}"
        return f"{text.rstrip('0').rstrip('.')} s"
    for position, (unit, name) in enumerate(_UNITS):
        if whole >= unit:
            count, rest = divmod(whole, unit)
            smaller, below = [*_UNITS, (1_000, "s")][position + 1]
            return f"{count} {name}" + (f" {rest // smaller} {below}" if rest >= smaller else "")
    raise AssertionError(ms)


def moment(ms: float | None, *, day: bool = True) -> Markup:
    """A time, as UTC; a script shows it in the browser's own time zone."""
    if ms is None:
        return Markup("–")
    try:
        at = datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return escape(f"{ms:g} ms since 1970")
    exact = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    shown = at.strftime("%d %b %H:%M:%S" if day else "%H:%M:%S")
    return Markup('<time datetime="{}" title="{}"{}>{} UTC</time>').format(
        exact, exact, Markup(' data-day="1"') if day else "", shown
    )


def pretty(value: Any) -> str:
    """JSON as text. Halves of characters, which can't be in a page, are written as escapes."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    except RecursionError:
        return "It is nested too deep to be shown."
    return text.encode("utf-8", "backslashreplace").decode()


def json_view(value: Any) -> Markup:
    """JSON as a tree that folds, or as text where it is large."""
    if _count(value, MAX_TREE_NODES) <= MAX_TREE_NODES:
        return Markup('<div class="json" tabindex="0">{}</div>').format(_tree(value, 0))
    text = pretty(value)
    cut = (
        Markup("")
        if len(text) <= MAX_TEXT
        else Markup('<p class="hint">These are the first {:,} of {:,} characters.</p>').format(
            MAX_TEXT, len(text)
        )
    )
    return Markup('<pre class="json" tabindex="0">{}</pre>{}').format(text[:MAX_TEXT], cut)


def _count(value: Any, limit: int) -> int:
    """The number of values, counted up to a bit more than the limit."""
    count = 0
    open_values = [value]
    while open_values and count <= limit:
        each = open_values.pop()
        count += 1
        if isinstance(each, Mapping):
            open_values.extend(each.values())
        elif isinstance(each, list | tuple):
            open_values.extend(each)
    # Very deep nesting has few values, but is not readable as a tree.
    return count


def _tree(value: Any, depth: int) -> Markup:
    if isinstance(value, Mapping) and value:
        items = [(_scalar(str(key), "key"), item) for key, item in value.items()]
        return _branch("{", items, "}", depth)
    if isinstance(value, list | tuple) and value:
        return _branch("[", [(None, item) for item in value], "]", depth)
    kinds = {str: "string", bool: "word", int: "number", float: "number", type(None): "word"}
    return _scalar(value, kinds.get(type(value), "word"))


def _branch(
    opening: str, items: Sequence[tuple[Markup | None, Any]], closing: str, depth: int
) -> Markup:
    if depth > 60:
        return _scalar(f"… {len(items)} more, nested deeper", "string")
    rows = Markup("").join(
        Markup('<div class="item">{}{}{}</div>').format(
            "" if key is None else key + Markup('<span class="mark">: </span>'),
            _tree(item, depth + 1),
            Markup("," if index < len(items) else ""),
        )
        for index, (key, item) in enumerate(items, 1)
    )
    is_open = depth < OPEN_DEPTH and len(items) <= MAX_OPEN_ITEMS
    return Markup(
        '<details{}><summary data-count="{}" data-close="{}">{}</summary>{}'
        '<span class="mark">{}</span></details>'
    ).format(Markup(" open" if is_open else ""), len(items), closing, opening, rows, closing)


def _scalar(value: Any, kind: str) -> Markup:
    return Markup('<span class="{}">{}</span>').format(kind, pretty(value))


@cache
def static_file(name: str) -> tuple[bytes, str]:
    """A file of `static/`, and a digest of it for its address. Raises `FileNotFoundError`."""
    content = (files(__package__ or "") / "static" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:12]


def static_url(name: str) -> str:
    """Address of a file of `static/`, which differs for each version of the file."""
    return f"/static/{name}?v={static_file(name)[1]}"


@cache
def environment() -> jinja2.Environment:
    """The templates."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "duration": duration,
        "moment": moment,
        "pretty": pretty,
        "json_view": json_view,
    }
    env.filters.update(filters)
    env.globals["static_url"] = static_url
    return env


def render(template: str, **context: Any) -> str:
    """A page, or a part of one."""
    text = environment().get_template(template).render(**context)
    # User code may have put halves of characters anywhere, which UTF-8 can't encode.
    return text.encode("utf-8", "backslashreplace").decode()
