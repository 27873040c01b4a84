"""Datasets of the user, and the one that is drawn."""

from rsmamba_cli.datasets.info import DatasetInfo, binary_classes

DEMO = DatasetInfo(
    name="demo",
    title="Procedurally generated scenes (buildings, and what was built or removed)",
    tasks=("segmentation", "change"),
    bands=("red", "green", "blue"),
    classes=binary_classes("building"),
    ignore_index=None,
    gsd=0.5,
    splits={"train": None, "val": None, "test": None},
    tile=256,
    licence="none needed: drawn by this program",
    citation="",
    source="nothing to fetch: scenes are drawn when they are read",
    layout="no files; options data.demo.scenes, data.demo.size, data.demo.gsd, data.demo.fresh",
    notes=(
        "The scenes look like aerial images but are not: a model trained on them knows only them.",
    ),
)

FOLDER = DatasetInfo(
    name="folder",
    title="Your own tiles in folders",
    tasks=("multimodal", "segmentation", "change"),
    bands=(),
    classes=(),
    ignore_index=255,
    gsd=None,
    splits={"train": None, "val": None, "test": None},
    tile=None,
    licence="yours",
    citation="",
    source="your own files",
    layout=(
        "DIR/{train,val,test}/{image,label}/STEM.* for segmentation\n"
        "DIR/{train,val,test}/{t1,t2,label}/STEM.* for change\n"
        "DIR/{train,val,test}/{image,sar,label}/STEM.* for multimodal (optical and radar)\n"
        "(other names of the image folders: data.roles; both in one file: the folder twice, and "
        "data.bands)\n"
        "(DIR/image/train, DIR/train + DIR/train_labels, DIR/list/train.txt are understood too)\n"
        "PNG, TIFF, GeoTIFF, JPEG or JPEG 2000; the stems of an image and its label agree\n"
        "labels: one band of 0/1, 0/255 or class numbers (255 = ignore beside class numbers)\n"
        "optional DIR/classes.json (or .yaml): "
        '{"classes": [{"value": 0, "name": "ground", "color": [0, 0, 0]}, ...], "ignore": [255]}'
    ),
)

SCENES = DatasetInfo(
    name="scenes",
    title="Your own large scenes with raster or vector labels",
    tasks=("multimodal", "change", "segmentation"),
    bands=(),
    classes=(),
    ignore_index=255,
    gsd=None,
    splits={"train": None, "val": None, "test": None},
    tile=None,
    licence="yours",
    citation="",
    source="your own files",
    layout=(
        "a YAML or JSON file that names scenes, labels, classes and how to split them, such as\n"
        "classes: [ground, building]\n"
        "scenes: [{image: scene.tif, label: buildings.gpkg, area: surveyed.gpkg}]\n"
        "splits: {by: block, block: 1024, buffer: 64}\n"
        "(further keys: sar, t2, field, codes, all_touched, line_width, ignore_border)"
    ),
    notes=("Nothing is cut to disk: windows are read from the scenes.",),
)
