"""The written forms of a report."""

from html.parser import HTMLParser

import pytest

from rsmamba_cli.bench.tables import (
    BEGIN,
    COLUMNS,
    END,
    case_tables,
    put_between_markers,
    seconds,
    tables,
    to_html,
    to_markdown,
)
from rsmamba_cli.errors import OutputError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (171.6, "172 s"),
        (2.25, "2.25 s"),
        (0.0123, "12.3 ms"),
        (4.5e-6, "4.50 µs"),
        (3e-8, "30.0 ns"),
    ],
)
def test_times_have_three_digits_and_a_unit(value, text) -> None:
    assert seconds(value) == text


def test_a_row_holds_everything_that_was_found(report) -> None:
    rows = tables(report)[0][1]
    assert rows[1] == (
        "",
        "native",
        "2.50 ms",
        "7",
        "reference 200x",
        "40% fma, 20% memory",
        "3.0 MiB",
        "2e-07",
    )


def test_a_case_is_named_once(report) -> None:
    assert [row[0] for row in tables(report)[0][1]] == ["scan (side 4)", "", ""]


def test_the_terminal_gets_a_table_a_case(report) -> None:
    assert [(title, len(rows)) for title, rows in case_tables(report)] == [
        ("ops: scan (side 4)", 3),
        ("rsm_ss_nano: one pass (side 8)", 1),
    ]


def parse_markdown(text: str) -> list[list[str]]:
    cut = "\0"
    lines = [line.replace("\\|", cut) for line in text.splitlines() if line.startswith("|")]
    return [[c.strip().replace(cut, "|") for c in line.strip("|").split("|")] for line in lines]


def test_markdown_gives_the_rows_back(report) -> None:
    rows = parse_markdown(to_markdown(report))
    wanted = [list(row) for _, group in tables(report) for row in group]
    kept = [row for row in rows if row != list(COLUMNS) and set(row) - {"---", "---:"}]
    assert kept == wanted


class Cells(HTMLParser):
    """The text of every table cell, and every address that the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loaded: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs) -> None:
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def test_html_gives_the_rows_back(report) -> None:
    page = Cells()
    page.feed(to_html(report))
    wanted = [list(row) for _, group in tables(report) for row in group]
    kept = [row for row in page.rows if len(row) == len(COLUMNS) and row != list(COLUMNS)]
    assert kept == wanted
    assert ["processor", "A <fast> one, 2 cores, Linux x86_64"] in page.rows


def test_html_loads_nothing(report) -> None:
    page = Cells()
    page.feed(to_html(report))
    assert page.loaded == []
    assert "<script" not in to_html(report)


def test_a_new_file_is_the_section_alone(tmp_path) -> None:
    assert put_between_markers("text", tmp_path / "new.md") == f"{BEGIN}\n\ntext\n{END}\n"


def test_only_the_section_of_an_old_file_changes(tmp_path) -> None:
    path = tmp_path / "old.md"
    path.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nend\n")
    text = put_between_markers("new", path)
    assert text == f"# Title\n\n{BEGIN}\n\nnew\n{END}\n\nend\n"


def test_writing_twice_is_writing_once(tmp_path) -> None:
    path = tmp_path / "old.md"
    path.write_text(f"a\n{BEGIN}\n{END}\nb\n")
    path.write_text(put_between_markers("new", path))
    assert put_between_markers("new", path) == path.read_text()


@pytest.mark.parametrize("text", ["mine", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_somebodys_text_is_not_replaced(tmp_path, text) -> None:
    path = tmp_path / "mine.md"
    path.write_text(text)
    with pytest.raises(OutputError, match=r"mine\.md exists"):
        put_between_markers("new", path)
