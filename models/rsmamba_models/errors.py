"""Errors of the model zoo; the toolkit wraps them at its edge."""


class ModelsError(Exception):
    """Base of every error raised on purpose by ``rsmamba_models``."""


class UnknownModelError(ModelsError):
    """No registered architecture has this name."""


class ArgumentsError(ModelsError):
    """A model was asked for with arguments that do not fit it, or was fed inputs that do not."""


class CheckpointFormatError(ModelsError):
    """A file is not a checkpoint that this version can read."""


class ImportFailedError(ModelsError):
    """An official state dict does not fit its family; the message names the keys."""


class BackendError(ModelsError):
    """A back end of an op was forced and is not available, or failed its check."""
