"""`python -m benchmarks NAME ...` runs those that are named (`runs`, `shapes`, `waits`, `ingress`,
`registry`, `flow_control`, `http`, `expressions`, `queue`, `overload`, `scale`, `pages`,
`profile`); without a name, all but the last five.

Exits with 1 if a bar of ours is missed.
"""

import asyncio
import os
import sys
import time

from . import (
    expressions,
    flow_control,
    http_apps,
    ingress,
    overload,
    pages,
    queue,
    registry,
    runs,
    scale,
    shapes,
    steps_profile,
    waits,
)
from .bench import Report

SERVED = {
    "runs": runs.main,
    "shapes": shapes.main,
    "waits": waits.main,
    "ingress": ingress.main,
    "registry": registry.main,
    "flow_control": flow_control.main,
    "http": http_apps.main,
    "queue": queue.main,
    "overload": overload.main,
    "scale": scale.main,
    "pages": pages.main,
    "profile": steps_profile.main,
}
LONG = {"queue", "overload", "scale", "pages", "profile"}
"""Those that run only if they are named."""


def main() -> int:
    chosen = sys.argv[1:] or [*(name for name in SERVED if name not in LONG), "expressions"]
    unknown = set(chosen) - {*SERVED, "expressions"}
    if unknown:
        print(
            f"No such benchmark: {', '.join(sorted(unknown))}. There are {', '.join(SERVED)} and"
            " expressions."
        )
        return 2
    report = Report()
    begun = time.monotonic()
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, load {load:.1f} before. The server, all workers and the clients"
        " share them."
    )
    for name in chosen:
        if name in SERVED:
            asyncio.run(SERVED[name](report))
        else:
            report.title("expressions, median")
            expressions.main()
    print(f"\n{time.monotonic() - begun:.0f} s in all.")
    if report.missed:
        print(f"Missed: {'; '.join(report.missed)}.")
    return 1 if report.missed else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # While Python is torn down, temporalio's threads may call it, which aborts the process.
    os._exit(status)
