"""The exceptions that a caller may catch.

Every message is one sentence for the person who made the mistake: what was wrong, where, and how to mend it. The
command line prints that sentence alone, without a traceback. What it quotes of other people's files and servers goes
through `shown` or `reason`, so that they cannot write to the terminal.
"""

from __future__ import annotations


class LeukaemiaZooError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownNameError(LeukaemiaZooError, ValueError):
    """A model, weight, option or class name that does not exist; the message lists close matches."""


class ArchitectureError(LeukaemiaZooError, ValueError):
    """An architecture was asked for something that it cannot build, such as an image too small for its pooling."""


class WeightsError(LeukaemiaZooError):
    """A weight that cannot be used: missing, damaged, or not for this network."""


class IntegrityError(WeightsError):
    """The bytes of a file are not the promised ones: those of its registry row, its description or its git id."""


class TensorMismatchError(WeightsError, ValueError):
    """The tensors in a weight file differ from the network's in name, shape or dtype."""


class ImageError(LeukaemiaZooError, ValueError):
    """An image, as a file or an array, that cannot be read or is not what a model takes."""


class BackendError(LeukaemiaZooError, ModuleNotFoundError):
    """The backend that Keras is set to is not there; the message says how to get it or another one."""


class CytologyMissingError(LeukaemiaZooError, ImportError):
    """A package of the extra ``cytology`` that is not installed; the message says how to install it."""


class SlidesMissingError(LeukaemiaZooError, ImportError):
    """tiffslide, which reads whole slides, is not installed."""


class EngineError(LeukaemiaZooError, RuntimeError):
    """The inference engine is not installed, has no graph of a network, or does not say what Keras says."""


class ExportMissingError(LeukaemiaZooError, ImportError):
    """A package of the extra ``export`` that is not installed; the message says how to install it."""


class BatchMissingError(LeukaemiaZooError, ImportError):
    """A package of the extra ``parquet`` or ``ray`` that is not installed; the message says how to install it."""


class DeskMissingError(LeukaemiaZooError, ImportError):
    """Gradio, of the extra ``app``, is not installed; the message says how to install it."""


class ClusterError(LeukaemiaZooError, RuntimeError):
    """A Ray cluster that cannot be reached, or whose workers end before they have judged their cells."""


class DataError(LeukaemiaZooError, ValueError):
    """A data set, CSV, label or subject that cannot be used as given."""


class DeviceError(LeukaemiaZooError, ValueError):
    """Devices to train on that are not there, or that the work cannot be shared among."""


class LeakError(DataError):
    """A split that shares a subject or an identical image between its parts."""


class HubError(WeightsError):
    """Something between this machine and the Hugging Face Hub; the subclasses say what."""


class HubOfflineError(HubError):
    """A file that is not in the local cache while the network is switched off (``HF_HUB_OFFLINE``)."""


class HubUnavailableError(HubError):
    """The Hub, or the way to it, does not answer as it should: no connection, time-out, too many requests, its fault.

    Attributes:
        during_transfer: Whether the file was there and only its transfer failed, so that another try may do.
    """

    during_transfer = False


class HubAccessError(HubError):
    """The Hub wants a token, or the token it was given does not allow this."""


class HubNotFoundError(HubError):
    """A repository, revision or file that does not exist on the Hub."""


class HubStorageError(HubError):
    """What came from the Hub cannot be written: disk full, folder read-only, no permission."""


class PandasMissingError(LeukaemiaZooError, ImportError):
    """`Report.to_pandas` without pandas, which this package does not ask for."""


class PlotsMissingError(LeukaemiaZooError, ImportError):
    """Matplotlib is not installed; a report is saved without plots then."""
