"""Map the buildings of a GeoTIFF from Python, with the embedded demonstration model.

    python examples/predict_scene.py [FOLDER]

Draws a small scene, writes it as GeoTIFF, predicts, and writes polygons and a quick-look beside it.
With your own model and scene, only ``model=`` and the first path change.
"""

import sys
from pathlib import Path

from rsmamba_cli import PredictOptions, predict
from rsmamba_cli.demo import write_scene_pair
from rsmamba_cli.report import write_quicklook


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example-predict")
    folder.mkdir(parents=True, exist_ok=True)
    scene = write_scene_pair(folder, size=640, seed=6).t1

    options = PredictOptions(
        model="demo",
        polygons=folder / "buildings.gpkg",
        probabilities=folder / "probabilities.tif",
        simplify=1.0,
        overwrite=True,
    )
    result = predict(scene, folder / "buildings.tif", options)

    picture = write_quicklook(scene, result.output, folder / "buildings.png", overwrite=True)
    area = (result.area_m2_per_class or {}).get("building", 0.0)
    print(f"{result.width} x {result.height} pixels in {result.seconds:.1f} s on {result.device}")
    print(f"buildings cover {area:,.0f} square metres")
    print(f"mask {result.output}, polygons {result.files['polygons']}, picture {picture}")


if __name__ == "__main__":
    main()
