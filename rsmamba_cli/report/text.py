"""Small text files that are whole or not there."""

from pathlib import Path

from rsmamba_cli.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write a small file; it appears under its name only when complete.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}") from error
