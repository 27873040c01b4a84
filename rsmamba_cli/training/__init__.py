"""Training."""

from rsmamba_cli.training.loop import train
from rsmamba_cli.training.recipe import TrainConfig
from rsmamba_cli.training.recipe_files import list_recipes, load_recipe
from rsmamba_cli.training.results import TrainResult

__all__ = ["TrainConfig", "TrainResult", "list_recipes", "load_recipe", "train"]
