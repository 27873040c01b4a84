"""Small files are whole or not there."""

from pathlib import Path

import pytest

from rsmamba_cli.errors import OutputError
from rsmamba_cli.report.text import write_text


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    write_text(path, "old")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    write_text(path, "né")
    assert path.read_text(encoding="utf-8") == "né" and path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["nowhere/a.csv", "file/a.csv", "folder"])
def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / place, "text")
    assert {p.name for p in tmp_path.rglob("*")} == {"file", "folder"}
