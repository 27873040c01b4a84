"""The console script ``rsmamba`` and ``python -m rsmamba_cli``."""

from rsmamba_cli.app import app
from rsmamba_cli.console import flush_stdout


def main() -> None:
    """Run the command line and leave with its exit status."""
    try:
        app(prog_name="rsmamba")
    finally:
        flush_stdout()


if __name__ == "__main__":
    main()
