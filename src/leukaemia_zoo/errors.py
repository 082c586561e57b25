"""The exceptions that a caller may catch.

Every message is one sentence for the person who made the mistake: what was wrong, where, and how to mend it. The
command line prints that sentence alone, without a traceback.
"""


class LeukaemiaZooError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownNameError(LeukaemiaZooError, ValueError):
    """A model, weight, option or class name that does not exist; the message lists close matches."""


class ArchitectureError(LeukaemiaZooError, ValueError):
    """An architecture was asked for something that it cannot build, such as an image too small for its pooling."""


class WeightsError(LeukaemiaZooError):
    """A weight that cannot be used: missing, damaged, or not for this network."""


class IntegrityError(WeightsError):
    """The bytes of a weight file are not the bytes that its registry row promises."""


class TensorMismatchError(WeightsError, ValueError):
    """The tensors in a weight file differ from the network's in name, shape or dtype."""


class ImageError(LeukaemiaZooError, ValueError):
    """An image, as a file or an array, that cannot be read or is not what a model takes."""


class DataError(LeukaemiaZooError, ValueError):
    """A data set, CSV, label or subject that cannot be used as given."""


class LeakError(DataError):
    """A split that shares a subject or an identical image between its parts."""
