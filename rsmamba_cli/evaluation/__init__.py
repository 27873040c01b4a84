"""How good a model or a map is."""

from rsmamba_cli.evaluation.maps import evaluate_map
from rsmamba_cli.evaluation.model import evaluate
from rsmamba_cli.evaluation.results import EvalResult

__all__ = ["EvalResult", "evaluate", "evaluate_map"]
