"""How ``rsmamba eval`` shows what was found."""

from typing import TYPE_CHECKING

from rsmamba_cli.console import Console
from rsmamba_cli.progress import duration

if TYPE_CHECKING:
    from rsmamba_cli.evaluation import CalibrationResult, Comparison, EvalResult


def show_result(console: Console, result: "EvalResult") -> None:
    """Print figures with their intervals, classes and the confusion matrix."""
    names, metrics = result.class_names, result.metrics

    def shown(name: str) -> str:
        low, high = result.intervals.get(name, (float("nan"),) * 2)
        return f"{metrics[name]:.4f}" + (f"  ({low:.4f} to {high:.4f})" if low == low else "")

    many = f"; 95 % intervals from {result.units} units" if result.intervals else ""
    console.properties(
        "metrics",
        {name: shown(name) for name in metrics if "/" not in name}
        | {
            "pixels": f"{result.pixels:,} in {result.tiles} image(s){many}",
            "protocol": result.protocol,
            "time": duration(result.seconds),
            "notes": "\n".join(result.notes),
        },
    )
    known = ("precision", "recall", "f1", "iou", "boundary_iou", "area_bias")
    scores = tuple(score for score in known if f"{score}/{names[0]}" in metrics)
    if scores:
        rows = [
            (name, *(f"{metrics[f'{score}/{name}']:.4f}" for score in scores)) for name in names
        ]
        console.table(("class", *scores), rows, right=scores)
    console.table(
        ("truth \\ prediction", *names),
        [
            (name, *(f"{count:,}" for count in line))
            for name, line in zip(names, result.confusion.tolist(), strict=True)
        ],
        title="confusion (pixels)",
        right=names,
    )


def show_comparison(console: Console, found: "Comparison") -> None:
    """Print both values of every overall figure, and the test of their difference."""
    columns = ("metric", "first", "second", "difference", "95 % interval", "p")
    rows = [
        (
            name,
            f"{d.first:.4f}",
            f"{d.second:.4f}",
            f"{d.second - d.first:+.4f}",
            f"{d.low:+.4f} to {d.high:+.4f}" if d.low == d.low else "",
            f"{d.p:.3g}" if d.p == d.p else "",
        )
        for name, d in found.differences.items()
        if "/" not in name
    ]
    title = f"first: {found.first}, second: {found.second}"
    console.table(columns, rows, title=title, right=columns[1:])
    only = found.pixels_only
    rest: dict[str, object] = {
        "units": f"{found.units} resampled together (paired bootstrap)",
        "pixels": f"{only[0]:,} right in the first only, {only[1]:,} in the second only; "
        f"McNemar p {found.pixels_p:.3g}, too sure: neighbouring pixels are not independent",
    }
    if found.objects_only is not None:
        first, second = found.objects_only
        rest["objects"] = (
            f"{first:,} found by the first only, {second:,} by the second only; McNemar p "
            f"{found.objects_p:.3g}"
        )
    rest["notes"] = "\n".join(found.notes)
    console.properties("tests", rest | {"time": duration(found.seconds)})


def show_calibration(console: Console, found: "CalibrationResult") -> None:
    """Print what changed."""
    pairs = {"temperature": found.temperature, "threshold": found.threshold, **found.metrics}
    rows = [(name, f"{before:.4f}", f"{after:.4f}") for name, (before, after) in pairs.items()]
    columns = ("", "before", "after")
    console.table(columns, rows, title=str(found.output), right=columns[1:])
    console.properties("fit", {"pixels": f"{found.pixels:,}", "notes": "\n".join(found.notes)})
