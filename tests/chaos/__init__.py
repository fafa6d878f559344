"""A mixed workload under faults, and a check of what its steps recorded: `python -m tests.chaos`.

`functions` is the app under test, `sender` sends its events, `world` runs the processes and breaks
them, `verify` reads the journal that the steps have written. Everything goes through public ways:
the commands, HTTP, and Temporal's own client.
"""
