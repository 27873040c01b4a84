"""Find what was built or torn down between two dates whose images have different grids.

    python examples/change_two_dates.py [FOLDER]

The second image has larger pixels and another origin; ``change`` warps it on to the first one's
grid. The result is compared with the known truth.
"""

import sys
from pathlib import Path

from rsmamba_cli import PredictOptions, change, evaluate_map
from rsmamba_cli.demo import write_scene_pair
from rsmamba_cli.report import write_change_quicklook


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example-change")
    folder.mkdir(parents=True, exist_ok=True)
    pair = write_scene_pair(folder, size=640, seed=22)

    options = PredictOptions(
        polygons=folder / "change.geojson", simplify=1.0, min_area=10.0, overwrite=True
    )
    result = change(pair.t1, pair.t2, folder / "change.tif", options)
    print(f"changed pixels: {result.pixels_per_class.get('change', 0):,} of "
          f"{result.width * result.height:,}; alignment: {result.details}")  # fmt: skip

    scores = evaluate_map(result.output, pair.truth_change).metrics
    print(f"against the truth: F1 {scores['f1']:.3f}, IoU {scores['iou']:.3f}")

    picture = write_change_quicklook(
        pair.t1, pair.t2, result.output, folder / "change.png", truth=pair.truth_change,
        overwrite=True,
    )  # fmt: skip
    print(f"picture {picture}")


if __name__ == "__main__":
    main()
