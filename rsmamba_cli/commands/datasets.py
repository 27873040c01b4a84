"""``rsmamba datasets``: the catalogue, preparing and checking."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rsmamba_cli.commands.flags import Output, command_app, spread_flags
from rsmamba_cli.console import Console, running
from rsmamba_cli.errors import DatasetError


class CatalogueGroup(TyperGroup):
    """Lets ``datasets NAME`` stand for ``datasets show NAME``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take a word that is no sub-command for the name of a dataset."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


app = command_app(
    cls=CatalogueGroup, invoke_without_command=True, subcommand_metavar="[NAME | COMMAND ...]"
)


@app.callback()
@spread_flags
def datasets(ctx: typer.Context, out: Output) -> None:
    """List, prepare and check datasets.

    Without arguments: the catalogue. With the NAME of a dataset: where it comes from and the
    layout that it must have.
    """
    if ctx.invoked_subcommand is not None:
        return
    with running(**out.settings()) as console:
        from rsmamba_cli.datasets import catalogue

        entries = catalogue()
        rows = [
            (info.name, info.task, _tiles(info.splits), info.gsd or "", info.title)
            for info in entries
        ]
        console.result(
            [_plain(info) for info in entries],
            lambda: console.table(
                ("name", "task", "tiles (train/val/test)", "m/pixel", "what"), rows
            ),
        )


@app.command(hidden=True)
@spread_flags
def show(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A dataset of the catalogue.")],
    out: Output,
) -> None:
    """Show one dataset: source, layout, classes, terms."""
    with running(**out.settings()) as console:
        from rsmamba_cli.datasets import get_dataset

        info = get_dataset(name)
        rows = {
            "task": info.task,
            "bands": ", ".join(info.bands) or "any",
            "bands of the radar image": ", ".join(info.sar_bands),
            "classes": ", ".join(f"{c.name} ({c.value})" for c in info.classes)
            or "decided by the data",
            "ignored label": "none" if info.ignore_index is None else info.ignore_index,
            "tiles (train/val/test)": _tiles(info.splits),
            "metres a pixel": info.gsd,
            "source": info.source,
            "layout": info.layout,
            "licence": info.licence,
            "citation": info.citation,
            "notes": "\n".join(info.notes),
        }
        console.result(_plain(info), lambda: console.properties(f"{info.name}: {info.title}", rows))


@app.command()
@spread_flags
def fetch(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A dataset of the catalogue.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where its archives go.")],
    out: Output,
) -> None:
    """Download a dataset's archives where they have a stable address; goes on after a drop."""
    with running(**out.settings()) as console:
        from rsmamba_cli.datasets import fetch_dataset

        files = fetch_dataset(name, folder, console.on_event)
        rows = {
            "files": "\n".join(map(str, files)),
            "next": f"rsmamba datasets prepare {name} {folder} DEST",
        }
        console.result(
            {"files": [str(file) for file in files]},
            lambda: console.properties(f"{name} has been fetched", rows),
        )


@app.command()
@spread_flags
def prepare(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A dataset of the catalogue.")],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The download: archives, or what they hold.")
    ],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="A folder to make.")],
    tile: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Side of the tiles; 0 never cuts. Default: the dataset's usual.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images that are worked on at once.")
    ] = None,
    out: Output,
) -> None:
    """Bring a downloaded dataset into its layout, cut into tiles where that is usual.

    Archives are unpacked first. An interrupted run goes on when it is started again.
    """
    with running(**out.settings()) as console:
        from rsmamba_cli.datasets import prepare_dataset

        report = prepare_dataset(name, source, dest, tile, console.on_event, workers)
        rows = {
            "folder": report.dest,
            **{f"{split} tiles": count for split, count in report.tiles.items()},
            "notes": "\n".join(report.notes),
            "next": f"rsmamba datasets check {name} {report.dest}",
        }
        console.result(asdict(report), lambda: console.properties(f"{name} is ready", rows))


@app.command()
@spread_flags
def check(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A dataset of the catalogue.")],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Its folder. Default: data/NAME or $RSMAMBA_DATA/NAME."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="segmentation|change|multimodal", help="For folders that could be several."
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            metavar="t2,sar_t2", help="Folders of the images, where they are not the usual ones."
        ),
    ] = None,
    out: Output,
) -> None:
    """Open every file of a dataset once; exit status 1 when something is wrong."""
    with running(**out.settings()) as console:
        from rsmamba_cli.datasets import check_dataset

        images = None if roles is None else roles.split(",")
        report = check_dataset(name, folder, console.on_event, task=task, roles=images)
        console.result(report.to_json(), _shown(console, report))
        if not report.ok:
            raise DatasetError(
                f"{len(report.problems)} problem(s) in {name}, the first: {report.problems[0]}"
            )


def _shown(console: Console, report: Any) -> Callable[[], None]:
    def show() -> None:
        rows = [
            (
                split,
                part.tiles,
                ", ".join(f"{size} ({count})" for size, count in part.sizes.items()),
                ", ".join(f"{c} {share}" for c, share in _shares(part.class_pixels).items()),
                len(part.problems),
            )
            for split, part in report.splits.items()
        ]
        title = f"{report.name} {report.root}".rstrip()
        kinds = ", ".join(f"{image.role} {image.describe()}" for image in report.inputs)
        console.table(
            ("split", "tiles", "sizes", "classes", "problems"),
            rows,
            title=f"{title}: {report.task}, {kinds}",
            right=("tiles", "problems"),
        )
        lines = [*report.notes, *report.problems]
        if lines:
            console.properties("notes", {str(n): line for n, line in enumerate(lines, start=1)})

    return show


def _shares(pixels: dict[str, int]) -> dict[str, str]:
    total = sum(pixels.values()) or 1
    return {name: f"{100 * count / total:.1f} %" for name, count in pixels.items()}


def _tiles(splits: Any) -> str:
    if all(count is None for count in splits.values()):
        return "any"
    shown = (splits.get(name, "-") for name in ("train", "val", "test"))
    return " / ".join("?" if count is None else str(count) for count in shown)


def _plain(info: Any) -> dict[str, Any]:
    return {**asdict(info), "task": info.task}
