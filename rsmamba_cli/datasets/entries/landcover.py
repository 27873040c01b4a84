"""Land cover from the air and from orbit."""

from rsmamba_cli.datasets.info import DatasetClass, DatasetInfo, Download, LabelValues

_RGB = ("red", "green", "blue")

LOVEDA = DatasetInfo(
    name="loveda",
    title="LoveDA land cover (Nanjing, Changzhou, Wuhan; urban and rural)",
    tasks=("segmentation",),
    bands=_RGB,
    classes=(
        DatasetClass(1, "background", (255, 255, 255)),
        DatasetClass(2, "building", (255, 0, 0)),
        DatasetClass(3, "road", (255, 255, 0)),
        DatasetClass(4, "water", (0, 0, 255)),
        DatasetClass(5, "barren", (159, 129, 183)),
        DatasetClass(6, "forest", (0, 255, 0)),
        DatasetClass(7, "agricultural", (255, 195, 128)),
    ),
    ignore_index=0,
    gsd=0.3,
    splits={"train": 2522, "val": 1669, "test": 1796},
    tile=1024,
    licence="CC BY-NC-SA 4.0",
    citation=(
        "J. Wang et al.: LoveDA: A remote sensing land-cover dataset for domain adaptive semantic "
        "segmentation. NeurIPS Datasets and Benchmarks, 2021"
    ),
    source="zenodo.org/records/5706578 (Train.zip, Val.zip, Test.zip)",
    layout=(
        "DIR/{img_dir,ann_dir}/{train,val}/STEM.png, 1024 x 1024 RGB, labels 1 to 7, 0 is ignored\n"
        "(`rsmamba datasets prepare loveda SOURCE DIR` makes it of the archives)"
    ),
    downloads=(
        Download(
            "https://zenodo.org/records/5706578/files/Train.zip?download=1",
            "md5:de2b196043ed9b4af1690b3f9a7d558f",
        ),
        Download(
            "https://zenodo.org/records/5706578/files/Val.zip?download=1",
            "md5:84cae2577468ff0b5386758bb386d31d",
        ),
        Download(
            "https://zenodo.org/records/5706578/files/Test.zip?download=1",
            "md5:a489be0090465e01fb067795d24e6b47",
        ),
    ),
    notes=("The test labels are not public: a server scores predictions, numbered 0 to 6.",),
)

_ISPRS_CLASSES = (
    DatasetClass(1, "impervious_surface", (255, 255, 255)),
    DatasetClass(2, "building", (0, 0, 255)),
    DatasetClass(3, "low_vegetation", (0, 255, 255)),
    DatasetClass(4, "tree", (0, 255, 0)),
    DatasetClass(5, "car", (255, 255, 0)),
    DatasetClass(6, "clutter", (255, 0, 0)),
)
_ISPRS_LICENCE = "research use with credit to ISPRS and the data's owner"
_ISPRS_CITATION = (
    "F. Rottensteiner et al.: The ISPRS benchmark on urban object classification and 3D building "
    "reconstruction. ISPRS Annals I-3, 293-298, 2012"
)

POTSDAM = DatasetInfo(
    name="potsdam",
    title="ISPRS 2D semantic labeling, Potsdam",
    tasks=("segmentation",),
    bands=_RGB,
    classes=_ISPRS_CLASSES,
    ignore_index=0,
    gsd=0.05,
    splits={"train": 3456, "val": 2016},
    tile=512,
    licence=_ISPRS_LICENCE,
    citation=_ISPRS_CITATION,
    source=(
        "the ISPRS benchmark page on 2D semantic labeling: 2_Ortho_RGB.zip and "
        "5_Labels_all_noBoundary.zip (or 5_Labels_all.zip)"
    ),
    layout=(
        "DIR/{img_dir,ann_dir}/{train,val}/STEM.*, 512 x 512 RGB (or DIR/img_dir/rgb/{train,val})\n"
        "labels 1 to 6, 0 (the eroded borders) is ignored; or pictures in the official colours\n"
        "(`rsmamba datasets prepare potsdam SOURCE DIR` makes it of the archives)"
    ),
    coloured=True,
    notes=("Clutter is trained and scored, as the papers' code does; many tables leave it out.",),
)

VAIHINGEN = DatasetInfo(
    name="vaihingen",
    title="ISPRS 2D semantic labeling, Vaihingen",
    tasks=("segmentation",),
    bands=("nir", "red", "green"),
    classes=_ISPRS_CLASSES,
    ignore_index=0,
    gsd=0.09,
    splits={"train": 344, "val": 398},
    tile=512,
    licence=_ISPRS_LICENCE,
    citation=_ISPRS_CITATION,
    source=(
        "the ISPRS benchmark page on 2D semantic labeling: ISPRS_semantic_labeling_Vaihingen.zip "
        "and ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip"
    ),
    layout=(
        "DIR/{img_dir,ann_dir}/{train,val}/STEM.*, 512 x 512, near infrared, red, green (or "
        "DIR/img_dir/irrg/{train,val})\n"
        "labels 1 to 6, 0 (the eroded borders) is ignored; or pictures in the official colours\n"
        "(`rsmamba datasets prepare vaihingen SOURCE DIR` makes it of the archives)"
    ),
    coloured=True,
    notes=("Clutter is trained and scored, as the papers' code does; many tables leave it out.",),
)

ISAID = DatasetInfo(
    name="isaid",
    title="iSAID: objects in aerial images, as semantic classes",
    tasks=("segmentation",),
    bands=_RGB,
    classes=(
        DatasetClass(0, "background", (0, 0, 0)),
        DatasetClass(1, "ship", (0, 0, 63)),
        DatasetClass(2, "storage tank", (0, 63, 63)),
        DatasetClass(3, "baseball diamond", (0, 63, 0)),
        DatasetClass(4, "tennis court", (0, 63, 127)),
        DatasetClass(5, "basketball court", (0, 63, 191)),
        DatasetClass(6, "ground track field", (0, 63, 255)),
        DatasetClass(7, "bridge", (0, 127, 63)),
        DatasetClass(8, "large vehicle", (0, 127, 127)),
        DatasetClass(9, "small vehicle", (0, 0, 127)),
        DatasetClass(10, "helicopter", (0, 0, 191)),
        DatasetClass(11, "swimming pool", (0, 0, 255)),
        DatasetClass(12, "roundabout", (0, 191, 127)),
        DatasetClass(13, "soccer ball field", (0, 127, 191)),
        DatasetClass(14, "plane", (0, 127, 255)),
        DatasetClass(15, "harbor", (0, 100, 155)),
    ),
    ignore_index=255,
    gsd=None,
    splits={"train": 33978, "val": 11644},
    tile=896,
    licence="academic use only, not commercial (as DOTA, whose images they are)",
    citation=(
        "S. Waqas Zamir et al.: iSAID: A large-scale dataset for instance segmentation in aerial "
        "images. CVPR Workshops, 28-37, 2019"
    ),
    source=(
        "captain-whu.github.io/iSAID (semantic masks) and captain-whu.github.io/DOTA (images, "
        "version 1.0)"
    ),
    layout=(
        "DIR/{img_dir,ann_dir}/{train,val}/STEM.png, 896 x 896 RGB, labels STEM or "
        "STEM_instance_color_RGB, 0 to 15, 255 is ignored; or pictures in the official colours\n"
        "(`rsmamba datasets prepare isaid SOURCE DIR` makes it of the archives)"
    ),
    coloured=True,
    label_endings=("_instance_color_RGB",),
)

WHU_OPT_SAR = DatasetInfo(
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
    recodings=(LabelValues((1, 2, 3, 4, 5, 6, 7), (0,), "labels are divided by 10"),),
    gsd=5.0,
    splits={"train": None, "val": None, "test": None},
    tile=256,
    licence="released by its makers for research, no licence text; cite the paper",
    citation=(
        "X. Li et al.: MCANet: A joint semantic segmentation framework of optical and SAR images "
        "for land use classification. Int. J. Applied Earth Observation and Geoinformation 106, "
        "102638, 2022"
    ),
    # The released code calls the variances standard deviations.
    mean=(104.74, 96.77, 79.21, 100.92, 54.12),
    std=(13.08, 14.76, 17.48, 26.40, 46.58),
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

HUNAN = DatasetInfo(
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
    # Of Mamba-Diffusion's release, which calls the variances standard deviations.
    mean=(
        *(1400.32, 1117.23, 994.44, 787.33, 1016.67, 1754.84, 2082.32, 1973.73, 2264.01),
        *(502.14, 6.38, 1482.67, 818.22, -10.33, -16.48),
    ),
    std=(
        *(98.31, 118.71, 141.52, 220.63, 211.99, 429.62, 562.86, 566.25, 660.80),
        *(128.77, 3.461, 500.52, 370.11, 4.517, 4.335),
    ),
    source="github.com/LauraChow/HunanMultimodalDataset",
    layout=(
        "DIR/cat1/{train,val,test}/STEM.tif, 15 bands (13 of Sentinel-2, then VV and VH in dB), "
        "with DIR/lbl/{train,val,test}/STEM.tif, as Mamba-Diffusion has it\n"
        "or DIR/{train,val,test}/{image,sar,label}/STEM.tif\n"
        "labels 1 to 7; 0 is ignored\n"
        "published as {train,val,test}/{s2,s1,lc}/{s2_,s1_,lc_}STEM.tif: datasets prepare"
    ),
    recodings=(
        LabelValues(
            (1, 2, 3, 5, 9, 6, 8),
            (0, 11, 12, 255),
            "labels hold the 13 codes of the publication; bare land is called unused land, and "
            "others built-up area",
            folder="lc",
            further={4: 2, 7: 8, 10: 8},
        ),
    ),
    notes=(
        "Mamba-Diffusion's code and the dataset's own description disagree on the classes 5 to 7 "
        "(unused land, water, built-up area against water, bare land, others): check a tile.",
        "Prepared from the publication, classes follow its description by their meaning: bare land "
        "is unused land, others are built-up area; code 11, of no class there, is ignored. The "
        "terrain model is not used. How the archive is laid out is known from code that reads it.",
    ),
)
