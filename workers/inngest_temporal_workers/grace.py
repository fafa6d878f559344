"""How long a worker goes on that was asked to stop."""

from datetime import timedelta

GRACE = timedelta(seconds=20)
"""How long running steps may go on; then another worker executes them again."""
