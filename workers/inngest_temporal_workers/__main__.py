"""The command `inngest-temporal`, which is also `python -m inngest_temporal_workers`."""

import signal


def main() -> None:
    """Run the command line."""
    # Our imports and the user's module take a second. Until a command handles signals itself, an
    # interrupt ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from inngest_temporal_workers.commands import cli

    cli.main()


if __name__ == "__main__":
    main()
