"""Small text files that are whole or not there."""

import tempfile
from contextlib import suppress
from pathlib import Path

from rsmamba_cli.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write a small file; it appears under its name only when complete.

    A file that is there already is replaced and lends the new one its permissions.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.absolute().parent, prefix=".", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(path.stat().st_mode if path.exists() else 0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
