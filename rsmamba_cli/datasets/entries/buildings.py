"""Buildings and roads from the air, and where they have changed."""

from rsmamba_cli.datasets.info import DatasetInfo, binary_classes

_RGB = ("red", "green", "blue")


WHU = DatasetInfo(
    name="whu",
    title="WHU building dataset, aerial images (Christchurch)",
    tasks=("segmentation",),
    bands=_RGB,
    classes=binary_classes("building", 255),
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

WHU_CD = DatasetInfo(
    name="whu-cd",
    title="WHU building change detection (Christchurch 2012 and 2016)",
    tasks=("change",),
    bands=_RGB,
    classes=binary_classes("change", 255),
    ignore_index=None,
    gsd=0.2,
    splits={"train": None, "val": None, "test": None},
    tile=256,
    licence="released by its makers for research, no licence text; cite the paper",
    citation=WHU.citation,
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

LEVIR_CD = DatasetInfo(
    name="levir-cd",
    title="LEVIR-CD building change detection (Texas, 2002 to 2018)",
    tasks=("change",),
    bands=_RGB,
    classes=binary_classes("change", 255),
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

MASSACHUSETTS_ROADS = DatasetInfo(
    name="massachusetts-roads",
    title="Massachusetts roads",
    tasks=("segmentation",),
    bands=_RGB,
    classes=binary_classes("road", 255),
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
