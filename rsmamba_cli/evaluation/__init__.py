"""How good a model or a map is."""

from rsmamba_cli.evaluation.calibrate import CalibrationResult, calibrate
from rsmamba_cli.evaluation.compare import compare
from rsmamba_cli.evaluation.maps import compare_maps, evaluate_map
from rsmamba_cli.evaluation.model import evaluate
from rsmamba_cli.evaluation.results import Comparison, EvalResult
from rsmamba_cli.evaluation.submission import write_submission

__all__ = [
    "CalibrationResult",
    "Comparison",
    "EvalResult",
    "calibrate",
    "compare",
    "compare_maps",
    "evaluate",
    "evaluate_map",
    "write_submission",
]
