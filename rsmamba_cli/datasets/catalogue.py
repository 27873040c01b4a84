"""The catalogue: every dataset that ``--dataset`` knows by name."""

from rsmamba_cli.datasets.info import DatasetClass, DatasetInfo
from rsmamba_cli.errors import DatasetError

_RGB = ("red", "green", "blue")


def _binary(name: str, value: int = 1) -> tuple[DatasetClass, DatasetClass]:
    """Background 0 and one foreground class."""
    return (
        DatasetClass(0, "background", (0, 0, 0)),
        DatasetClass(value, name, (255, 255, 255)),
    )


_DEMO = DatasetInfo(
    name="demo",
    title="Procedurally generated scenes (buildings, and what was built or removed)",
    tasks=("segmentation", "change"),
    bands=_RGB,
    classes=_binary("building"),
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

_FOLDER = DatasetInfo(
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

_WHU = DatasetInfo(
    name="whu",
    title="WHU building dataset, aerial images (Christchurch)",
    tasks=("segmentation",),
    bands=_RGB,
    classes=_binary("building", 255),
    ignore_index=None,
    gsd=0.3,
    splits={"train": 4736, "val": 1036, "test": 2416},
    tile=512,
    licence="released by its makers for research, no licence text; cite the paper",
    citation=(
        "S. Ji, S. Wei, M. Lu: Fully convolutional networks for multisource building extraction "
        "from an open aerial and satellite imagery data set. IEEE TGRS 57(1), 574-586, 2019"
    ),
    source=(
        "gpcv.whu.edu.cn/data/building_dataset.html, "
        '"The cropped image tiles and raster labels" of the aerial part'
    ),
    layout="DIR/{train,val,test}/{image,label}/STEM.tif, 512 x 512 RGB, labels 0/255",
    binary_any=True,
)

_WHU_CD = DatasetInfo(
    name="whu-cd",
    title="WHU building change detection (Christchurch 2012 and 2016)",
    tasks=("change",),
    bands=_RGB,
    classes=_binary("change", 255),
    ignore_index=None,
    gsd=0.2,
    splits={"train": None, "val": None, "test": None},
    tile=256,
    licence="released by its makers for research, no licence text; cite the paper",
    citation=_WHU.citation,
    source='gpcv.whu.edu.cn/data/building_dataset.html, "Building change detection dataset"',
    layout=(
        "DIR/{train,val,test}/{t1,t2,label}/STEM.*, labels 0/255\n"
        "(`rsmamba datasets prepare whu-cd SOURCE DIR` cuts the published pair, 32507 x 15354)"
    ),
    binary_any=True,
    notes=(
        "There is no agreed split. The one that `prepare` makes is ours and is called "
        "rsmamba-strips: from west to east, 70 % train, 10 % val, 20 % test, no tile in two.",
    ),
)

_LEVIR_CD = DatasetInfo(
    name="levir-cd",
    title="LEVIR-CD building change detection (Texas, 2002 to 2018)",
    tasks=("change",),
    bands=_RGB,
    classes=_binary("change", 255),
    ignore_index=None,
    gsd=0.5,
    splits={"train": 445, "val": 64, "test": 128},
    tile=1024,
    licence="academic use only, not commercial",
    citation=(
        "H. Chen, Z. Shi: A spatial-temporal attention-based method and a new dataset for remote "
        "sensing image change detection. Remote Sensing 12(10), 1662, 2020"
    ),
    source="justchenhao.github.io/LEVIR (train.zip, val.zip, test.zip)",
    layout=(
        "DIR/{train,val,test}/{A,B,label}/STEM.png, 1024 x 1024 RGB, labels 0/255\n"
        "(t1, t2 for A, B; DIR/{A,B,label} with DIR/list/{train,val,test}.txt; or cut to 256: "
        "7120 / 1024 / 2048 tiles)"
    ),
    binary_any=True,
    notes=("Scoring tiles of 256 instead of images of 1024 moves F1 by up to a point: say which.",),
)

_MASSACHUSETTS_ROADS = DatasetInfo(
    name="massachusetts-roads",
    title="Massachusetts roads",
    tasks=("segmentation",),
    bands=_RGB,
    classes=_binary("road", 255),
    ignore_index=None,
    gsd=1.0,
    splits={"train": 1108, "val": 14, "test": 49},
    tile=1500,
    licence="offered for research by its author; imagery by the state of Massachusetts",
    citation=(
        "V. Mnih: Machine learning for aerial image labeling. PhD thesis, University of Toronto, "
        "2013"
    ),
    source="www.cs.toronto.edu/~vmnih/data (folders train, valid, test with sat and map)",
    layout=(
        "DIR/{train,valid,test}/{sat,map}/STEM.tif* as published, 1500 x 1500 RGB, labels 0/255\n"
        "(or {train,val,test}/{image,label}; or train + train_labels and so on)"
    ),
    binary_any=True,
    notes=("Some training images are partly blank (white) where the labels go on.",),
)

_WHU_OPT_SAR = DatasetInfo(
    name="whu-opt-sar",
    title="WHU-OPT-SAR land cover (Hubei; Gaofen-1 optical, Gaofen-3 radar)",
    tasks=("multimodal",),
    bands=("red", "green", "blue", "nir"),
    sar_bands=("sar",),
    stacked="cat",
    classes=(
        DatasetClass(10, "farmland", (139, 69, 19)),
        DatasetClass(20, "city", (255, 0, 0)),
        DatasetClass(30, "village", (255, 255, 0)),
        DatasetClass(40, "water", (0, 0, 255)),
        DatasetClass(50, "forest", (0, 255, 0)),
        DatasetClass(60, "road", (0, 255, 255)),
        DatasetClass(70, "others", (205, 96, 144)),
    ),
    ignore_index=0,
    label_step=10,
    gsd=5.0,
    splits={"train": None, "val": None, "test": None},
    tile=256,
    licence="released by its makers for research, no licence text; cite the paper",
    citation=(
        "X. Li et al.: MCANet: A joint semantic segmentation framework of optical and SAR images "
        "for land use classification. Int. J. Applied Earth Observation and Geoinformation 106, "
        "102638, 2022"
    ),
    source="github.com/AmberHen/WHU-OPT-SAR-dataset (100 scenes of 5556 x 3704)",
    layout=(
        "DIR/{optical,sar,lbl}/STEM.tif as published, with DIR/list/{train,val,test}.txt (one name "
        "a line; the makers' division of the dataset has train and test)\n"
        "or DIR/cat/{train,val,test}/STEM.tif, five bands (red, green, blue, near infrared, "
        "radar), with DIR/label/{train,val,test}/STEM.tif, as Mamba-Diffusion has it\n"
        "or DIR/{train,val,test}/{image,sar,label}/STEM.tif\n"
        "labels 10, 20, ..., 70, or 1 to 7; 0 is ignored"
    ),
    notes=(
        "The makers' division has 80 scenes to train and 20 to test on. Mamba-Diffusion used "
        "70 / 20 / 10 % of 29400 tiles of 256; which ones is not published.",
    ),
)

_HUNAN = DatasetInfo(
    name="hunan",
    title="Hunan land cover (Sentinel-2 and Sentinel-1)",
    tasks=("multimodal",),
    bands=(
        *("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A"),
        *("B9", "B10", "B11", "B12"),
    ),
    sar_bands=("VV", "VH"),
    stacked="cat1",
    classes=(
        DatasetClass(1, "cropland", (230, 190, 60)),
        DatasetClass(2, "forest", (20, 110, 40)),
        DatasetClass(3, "grassland", (130, 200, 80)),
        DatasetClass(4, "wetland", (80, 170, 160)),
        DatasetClass(5, "unused land", (170, 140, 110)),
        DatasetClass(6, "water", (40, 90, 220)),
        DatasetClass(7, "built-up area", (200, 50, 50)),
    ),
    ignore_index=0,
    gsd=10.0,
    splits={"train": 400, "val": 50, "test": 50},
    tile=256,
    licence="released by its makers for research, no licence text; cite the paper",
    citation=(
        "Y. Li et al.: DKDFN: Domain knowledge-guided deep collaborative fusion network for "
        "multimodal unitemporal remote sensing land cover classification. ISPRS Journal of "
        "Photogrammetry and Remote Sensing 186, 170-189, 2022"
    ),
    source="github.com/LauraChow/HunanMultimodalDataset",
    layout=(
        "DIR/cat1/{train,val,test}/STEM.tif, 15 bands (13 of Sentinel-2, then VV and VH in dB), "
        "with DIR/lbl/{train,val,test}/STEM.tif, as Mamba-Diffusion has it\n"
        "or DIR/{train,val,test}/{image,sar,label}/STEM.tif\n"
        "labels 1 to 7; 0 is ignored"
    ),
    notes=(
        "Mamba-Diffusion's code and the dataset's own description disagree on the classes 5 to 7 "
        "(unused land, water, built-up area against water, bare land, others): check a tile.",
        "The published labels hold 13 other codes; the dataset's description says how to recode "
        "them (its classes count from 0). The terrain model is not used.",
    ),
)

_CATALOGUE = (
    _DEMO,
    _FOLDER,
    _WHU,
    _WHU_CD,
    _LEVIR_CD,
    _MASSACHUSETTS_ROADS,
    _WHU_OPT_SAR,
    _HUNAN,
)


def catalogue() -> list[DatasetInfo]:
    """List every dataset the toolkit knows, in the order of the tables."""
    return list(_CATALOGUE)


def get_dataset(name: str) -> DatasetInfo:
    """Look a dataset up by the name that ``--dataset`` takes.

    Raises:
        DatasetError: no dataset has this name; the message lists those there are.
    """
    for info in _CATALOGUE:
        if info.name == name:
            return info
    known = ", ".join(info.name for info in _CATALOGUE)
    raise DatasetError(f"There is no dataset called {name!r}. Known: {known}.")
