"""The console script ``rsmamba`` and ``python -m rsmamba_cli``."""

import os

from rsmamba_cli.app import app
from rsmamba_cli.console import flush_stdout


def main() -> None:
    """Run the command line and leave with its exit status."""
    # torch's OpenMP threads wait for each other by spinning. With another process on one of the
    # cores that made a forward pass some twenty times slower. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="rsmamba")
    finally:
        flush_stdout()


if __name__ == "__main__":
    main()
