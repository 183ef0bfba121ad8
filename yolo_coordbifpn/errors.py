"""The package's own errors."""


class RowError(ValueError):
    """A row of a model YAML that holds one of the registered blocks cannot be built; the message names the row."""


class WeightsError(ValueError):
    """Pretrained weights do not belong to the model that they are loaded into; the model is left as it was."""


class GraftError(ValueError):
    """The blocks cannot be put into a model YAML; the message says where and what is possible."""


class HostError(RuntimeError):
    """The Ultralytics in hand is missing, too old, of another shape, or already has a block of the same name."""


class CompareError(ValueError):
    """A comparison cannot be run as asked; what has been run is kept."""


class InspectError(ValueError):
    """There is no such model or picture to look at; the message says what was expected."""
