"""Training and evaluation."""

from rsmamba_cli.training.evaluation import evaluate
from rsmamba_cli.training.loop import train
from rsmamba_cli.training.map_evaluation import evaluate_map
from rsmamba_cli.training.recipe import TrainConfig
from rsmamba_cli.training.recipe_files import list_recipes, load_recipe
from rsmamba_cli.training.results import EvalResult, TrainResult

__all__ = [
    "EvalResult",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "evaluate_map",
    "list_recipes",
    "load_recipe",
    "train",
]
