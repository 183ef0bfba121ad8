"""The package's own errors."""


class RowError(ValueError):
    """A row of a model YAML that holds one of the registered blocks cannot be built; the message names the row."""


class HostError(RuntimeError):
    """The Ultralytics in hand is missing, too old, of another shape, or already has a block of the same name."""
