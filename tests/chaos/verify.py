"""What steps recorded, and whether it is right."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import sender
from .sender import Sent

LONG_STALL = 8
"""Seconds after which a stopped process may have lost what it was doing to another one."""
LIMITS = {
    "per key": (("per-key",), 2, True),
    "shared": (("shared-a", "shared-b"), 3, False),
    "priority": (("priority",), 2, False),
    "over HTTP": (("http-keyed",), 2, True),
}
"""Limits of what may execute at once: kinds, how many, and whether for each key."""


@dataclass
class Attempt:
    """One execution of a step's body."""

    about: dict[str, Any]
    begin: float
    end: float = float("inf")
    """When it ended, was cut off, or was taken over by a later attempt."""
    completed: bool = False

    def __getattr__(self, name: str) -> Any:
        return self.about[name]


class Journal:
    """The journal, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = path
        self._offset = 0
        self._proved: set[tuple[str, int]] = set()

    def read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for text in whole.splitlines():
            line = json.loads(text)
            self.lines.append(line)
            if line["what"] == "end" and line["step"] == sender.PROOF.get(line["kind"], "last"):
                self._proved |= {(line["kind"], n) for n in line["n"]}

    def proved(self, kind: str, n: int) -> bool:
        """Whether the step that proves its effect has ended for this event."""
        return (kind, n) in self._proved

    def attempts(self) -> list[Attempt]:
        found: list[Attempt] = []
        by_place: dict[tuple[Any, ...], Attempt] = {}  # by process
        by_step: dict[tuple[Any, ...], Attempt] = {}  # the latest one
        for line in self.lines:
            what = line["what"]
            if what in ("killed", "stalled"):
                if what == "stalled" and line["seconds"] < LONG_STALL:
                    continue
                for place in [each for each in by_place if each[0] == line["victim"]]:
                    attempt = by_place.pop(place)
                    attempt.end = min(attempt.end, line["at"])
            if "step" not in line or "order" not in line:
                continue
            step = (line["run"], line["step"])
            place = (line["pid"], *step, line["attempt"])
            if what == "begin":
                attempt = Attempt(line, line["at"])
                if step in by_step:
                    by_step[step].end = min(by_step[step].end, line["at"])
                by_step[step] = by_place[place] = attempt
                found.append(attempt)
            elif place in by_place:
                attempt = by_place.pop(place)
                attempt.end = min(attempt.end, line["at"])
                attempt.completed = what == "end"
        return found


def unfinished(journal: Journal, sent: Iterable[Sent]) -> list[Sent]:
    """Accepted events that have not had the effect that they should have had."""
    keys: dict[tuple[str, str], list[Sent]] = defaultdict(list)
    missing = []
    for each in sent:
        if not each.ids:
            continue
        if each.kind in sender.EACH:
            missing += [] if journal.proved(each.kind, each.n) else [each]
        elif each.kind not in sender.FREE:
            keys[each.kind, each.key].append(each)
    for (kind, _), events in keys.items():
        newest = max(events, key=lambda event: event.n)
        wanted = [newest] if kind in sender.NEWEST else events
        if not any(journal.proved(kind, event.n) for event in wanted):
            missing.append(newest)
    return missing


def twice(journal: Journal) -> Iterator[str]:
    """Events of which a function had two runs, or which were twice in one batch."""
    runs: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for line in journal.lines:
        if line["what"] != "begin" or line["kind"] in ("cron", "probe"):
            continue
        for n, times in Counter(line["n"]).items():
            runs[line["event"], line["kind"], n].add(line["run"])
            if times > 1:
                yield f"{line['kind']} {n} is {times} times in the batch of run {line['run']}"
    # A run of `invokes` has a child, whose event has a name of its own; so have other followers.
    for (event, kind, n), found in runs.items():
        if len(found) > 1:
            yield f"{event} ({kind} {n}) has runs {', '.join(sorted(found))}"


def again(attempts: list[Attempt]) -> Iterator[str]:
    """Steps that were executed after a later step of their run had begun."""
    runs: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        runs[attempt.run].append(attempt)
    for run, steps in runs.items():
        for step in steps:
            later = [each.begin for each in steps if each.order > step.order]
            before = any(
                each.completed and each.step == step.step and each is not step for each in steps
            )
            if before and later and step.begin > min(later):
                yield f"{step.kind} {run}: {step.step} again, {step.begin - min(later):.1f} s late"


def over_limit(attempts: list[Attempt]) -> Iterator[str]:
    for name, (kinds, limit, keyed) in LIMITS.items():
        moments: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
        for each in attempts:
            if each.event in {f"chaos/{kind}" for kind in kinds}:
                key = each.key if keyed else ""
                moments[key] += [(each.begin, 1, each.run), (each.end, -1, each.run)]
        for key, changes in moments.items():
            inside: Counter[str] = Counter()
            for at, change, run in sorted(changes):
                inside[run] += change
                if change > 0 and sum(inside.values()) > limit:
                    holders = ", ".join(run for run, count in inside.items() if count)
                    yield f"{name} {key}: {sum(inside.values())} at {at:.3f}: {holders}"


def singletons(attempts: list[Attempt]) -> Iterator[str]:
    """Keys of which two runs were under way at once."""
    spans: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(dict)
    for each in attempts:
        if each.event in ("chaos/single-skip", "chaos/single-cancel"):
            end = each.begin if each.end == float("inf") else each.end
            span = spans[each.kind, each.key].setdefault(each.run, [each.begin, end])
            span[1] = max(span[1], end)
    for (kind, key), runs in spans.items():
        in_order = sorted(runs.items(), key=lambda item: item[1])
        for (one, first), (two, second) in itertools.pairwise(in_order):
            if second[0] < first[1]:
                yield f"{kind} {key}: {one} and {two} overlap by {first[1] - second[0]:.3f} s"


def more_than_one(journal: Journal) -> Iterator[str]:
    """Keys that may have one run, and had several."""
    runs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in journal.lines:
        if line["what"] == "begin" and line["kind"] in sender.ONE:
            runs[line["kind"], line["key"]].add(line["run"])
    for (kind, key), found in runs.items():
        if len(found) > 1:
            yield f"{kind} {key}: {', '.join(sorted(found))}"


def said(journal: Journal, what: str) -> list[str]:
    return [json.dumps(line)[:500] for line in journal.lines if line["what"] == what]
