"""How long a worker continues after it was asked to stop."""

from datetime import timedelta

GRACE = timedelta(seconds=20)
"""How long running steps may continue; then another worker executes them again."""
