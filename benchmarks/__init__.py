"""What Inngest-style functions cost beside the same written by hand with temporalio: `python -m
benchmarks`."""
