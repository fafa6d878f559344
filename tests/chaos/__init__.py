"""A mixed workload under faults, and a check of what its steps recorded: `python -m tests.chaos`.

`functions` and `http_app` are the apps under test, which note what their steps do (`notes`);
`sender` sends their events, `world` runs the processes and breaks them, `verify` reads the journal.
Everything goes through public ways: the commands, HTTP, and Temporal's own client.
"""
