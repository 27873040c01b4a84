"""Flags that several ``rsmamba bench`` commands share."""

from pathlib import Path
from typing import Annotated

import typer

MarkdownFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the tables as Markdown: a new file, or the marked section of an old one.",
    ),
]
ScratchFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where scenes and maps are put for the time being."),
]
