"""The one exception tree of the toolkit: each class is a reason to stop that a user can act on."""


class RsmambaError(Exception):
    """Base of every error that ends a command with one message and exit status 1."""


class InputError(RsmambaError):
    """A scene, mask, vector file or option value that cannot be used."""


class CheckpointError(RsmambaError):
    """A model file that cannot be loaded, or does not fit the input."""


class DatasetError(RsmambaError):
    """A dataset that is missing, incomplete or laid out differently than expected."""


class OutputError(RsmambaError):
    """An output that cannot be written, or that exists already."""


class ResumeError(RsmambaError):
    """An interrupted run that cannot be continued with these inputs and options."""


class DeviceError(RsmambaError):
    """A device, precision or kernel that was asked for and is not there."""


class Interrupted(RsmambaError):
    """The user or the system stopped a run (SIGINT, SIGTERM); exit status 130."""
