"""What `bench` and `python -m bench` start: Ctrl-C is one line also while the rest is imported."""

import contextlib
import os
import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _stopped)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a script's background has it
        signal.signal(signal.SIGINT, _stopped)
    from bench.cli import main as run

    run()


def _stopped(number: int, frame: object) -> None:
    """End at once, since an exception would strike within an import, where it can be swallowed or wrapped."""
    with contextlib.suppress(OSError):
        os.write(2, b"bench: stopped before anything was done\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
