"""Pre-training of encoders on folders of images, a class a folder."""

from rsmamba_cli.pretraining.config import PretrainConfig
from rsmamba_cli.pretraining.evaluate import evaluate_classifier
from rsmamba_cli.pretraining.run import pretrain

__all__ = ["PretrainConfig", "evaluate_classifier", "pretrain"]
