"""Scenes of daily life and of streets, on which general networks are compared."""

import csv
from importlib.resources import files

from rsmamba_cli.datasets.info import DatasetClass, DatasetInfo, Download, LabelValues

_RGB = ("red", "green", "blue")


def _listed(name: str) -> tuple[DatasetClass, ...]:
    """The classes of a dataset from the table beside this package."""
    table = files("rsmamba_cli.datasets") / "classes" / f"{name}.csv"
    with table.open(encoding="utf-8") as lines:
        return tuple(
            DatasetClass(
                int(row["value"]),
                row["name"],
                (int(row["red"]), int(row["green"]), int(row["blue"])),
            )
            for row in csv.DictReader(lines)
        )


ADE20K = DatasetInfo(
    name="ade20k",
    title="ADE20K scene parsing, the 150 classes of the 2016 challenge",
    tasks=("segmentation",),
    bands=_RGB,
    classes=_listed("ade20k"),
    ignore_index=0,
    gsd=None,
    splits={"train": 20210, "val": 2000},
    tile=None,
    licence="images: research and education, not commercial; annotations: BSD 3-Clause",
    citation=("B. Zhou et al.: Scene parsing through ADE20K dataset. CVPR, 633-641, 2017"),
    source="data.csail.mit.edu/places/ADEchallenge (ADEChallengeData2016.zip)",
    layout=(
        "DIR/{images,annotations}/{training,validation}/STEM.* as published (the folder "
        "ADEChallengeData2016), labels 1 to 150, 0 is ignored"
    ),
    downloads=(
        Download(
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
        ),
    ),
)

_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

CITYSCAPES = DatasetInfo(
    name="cityscapes",
    title="Cityscapes, fine annotations, 19 classes",
    tasks=("segmentation",),
    bands=_RGB,
    classes=(
        DatasetClass(0, "road", (128, 64, 128)),
        DatasetClass(1, "sidewalk", (244, 35, 232)),
        DatasetClass(2, "building", (70, 70, 70)),
        DatasetClass(3, "wall", (102, 102, 156)),
        DatasetClass(4, "fence", (190, 153, 153)),
        DatasetClass(5, "pole", (153, 153, 153)),
        DatasetClass(6, "traffic light", (250, 170, 30)),
        DatasetClass(7, "traffic sign", (220, 220, 0)),
        DatasetClass(8, "vegetation", (107, 142, 35)),
        DatasetClass(9, "terrain", (152, 251, 152)),
        DatasetClass(10, "sky", (70, 130, 180)),
        DatasetClass(11, "person", (220, 20, 60)),
        DatasetClass(12, "rider", (255, 0, 0)),
        DatasetClass(13, "car", (0, 0, 142)),
        DatasetClass(14, "truck", (0, 0, 70)),
        DatasetClass(15, "bus", (0, 60, 100)),
        DatasetClass(16, "train", (0, 80, 100)),
        DatasetClass(17, "motorcycle", (0, 0, 230)),
        DatasetClass(18, "bicycle", (119, 11, 32)),
    ),
    ignore_index=255,
    recodings=(
        LabelValues(
            _CITYSCAPES_IDS,
            tuple(value for value in range(34) if value not in _CITYSCAPES_IDS),
            "labels are the dataset's ids (0 to 33), of which 19 are classes",
            ending="_gtFine_labelIds",
        ),
    ),
    gsd=None,
    splits={"train": 2975, "val": 500, "test": 1525},
    tile=None,
    licence="research and personal use, not commercial; no redistribution (cityscapes terms)",
    citation=(
        "M. Cordts et al.: The Cityscapes dataset for semantic urban scene understanding. CVPR, "
        "3213-3223, 2016"
    ),
    source=(
        "www.cityscapes-dataset.com after registration (leftImg8bit_trainvaltest.zip, "
        "gtFine_trainvaltest.zip)"
    ),
    layout=(
        "DIR/leftImg8bit/{train,val,test}/CITY/STEM_leftImg8bit.png with "
        "DIR/gtFine/{train,val,test}/CITY/STEM_gtFine_labelTrainIds.png or ..._labelIds.png, as "
        "published, 2048 x 1024\n"
        "or DIR/{img_dir,ann_dir}/{train,val}/STEM.png"
    ),
    image_endings=("_leftImg8bit",),
    label_endings=("_gtFine_labelTrainIds", "_gtFine_labelIds"),
    nested=True,
    notes=("The labels of the test split are empty: a server scores predictions.",),
)

_COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)

COCO_STUFF = DatasetInfo(
    name="coco-stuff",
    title="COCO-Stuff 164k, 171 classes",
    tasks=("segmentation",),
    bands=_RGB,
    classes=_listed("coco-stuff"),
    ignore_index=255,
    recodings=(
        LabelValues(
            tuple(value for value in range(182) if value not in _COCO_UNUSED),
            (255,),
            "labels are the dataset's ids (0 to 181), of which 171 are classes",
        ),
    ),
    gsd=None,
    splits={"train": 118287, "val": 5000},
    tile=None,
    licence="annotations: CC BY 4.0; images: the terms of Flickr and of their makers",
    citation="H. Caesar, J. Uijlings, V. Ferrari: COCO-Stuff. CVPR, 1209-1218, 2018",
    source=(
        "cocodataset.org (train2017.zip, val2017.zip) and github.com/nightrome/cocostuff "
        "(stuffthingmaps_trainval2017.zip)"
    ),
    layout=(
        "DIR/{images,annotations}/{train2017,val2017}/STEM.*, labels STEM_labelTrainIds.png (0 to "
        "170) or, as published, STEM.png (0 to 181); 255 is ignored\n"
        "or DIR/{img_dir,ann_dir}/{train,val}/STEM.*"
    ),
    label_endings=("_labelTrainIds",),
    downloads=(
        Download(
            "http://images.cocodataset.org/zips/train2017.zip",
            "sha1:10ad623668ab00c62c096f0ed636d6aff41faca5",
        ),
        Download(
            "http://images.cocodataset.org/zips/val2017.zip",
            "sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41",
        ),
        Download(
            "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
            "stuffthingmaps_trainval2017.zip",
        ),
    ),
)
