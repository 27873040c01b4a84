"""A QGIS style beside a class map: the classes with their names and colours."""

from pathlib import Path
from xml.etree import ElementTree

from rsmamba_cli.errors import OutputError
from rsmamba_models import ClassInfo


def write_qgis_style(path: Path, classes: tuple[ClassInfo, ...]) -> None:
    """Write a ``.qml`` that QGIS takes up with the raster of the same stem.

    Args:
        path: where to.
        classes: values, names and colours; nodata stays transparent.

    Raises:
        OutputError: it cannot be written.
    """
    root = ElementTree.Element("qgis", {"styleCategories": "Symbology"})
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe,
        "rasterrenderer",
        {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1"},
    )
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for info in classes:
        ElementTree.SubElement(
            palette,
            "paletteEntry",
            {
                "value": str(info.value),
                "label": info.name,
                "color": "#{:02x}{:02x}{:02x}".format(*info.color),
                "alpha": "255",
            },
        )
    ElementTree.indent(root)
    try:
        path.write_text(
            "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
            + ElementTree.tostring(root, encoding="unicode")
            + "\n",
            encoding="utf-8",
        )
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
