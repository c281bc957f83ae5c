"""Every error that wsiseg raises on purpose.

::

    WsisegError
    ├── UsageError        wrong arguments; the command line exits with 2
    │   ├── ConfigError
    │   ├── UnknownModelError
    │   └── DeviceError
    ├── SlideError        one slide cannot be used; other slides go on
    │   ├── SlideNotFoundError
    │   ├── SlideFormatError
    │   ├── SlideReadError
    │   │   └── SlideTimeoutError
    │   └── MppError
    ├── CheckpointError   weights or their card cannot be used
    ├── DataError         training data, truth or GeoJSON cannot be used
    ├── ClusterError      the Dask cluster cannot be reached, does not fit, or has gone
    ├── OutOfMemoryError  not even one tile fits into the device's memory
    └── OutputError       a result cannot be written, continued, or is being written by another run

A message says what is wrong, the value that was met and what to do, on one line.
Each class also inherits the fitting builtin, so that callers need not know this tree.
"""

__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "MppError",
    "OutOfMemoryError",
    "OutputError",
    "SlideError",
    "SlideFormatError",
    "SlideNotFoundError",
    "SlideReadError",
    "SlideTimeoutError",
    "UnknownModelError",
    "UsageError",
    "WsisegError",
    "one_line",
]


class WsisegError(Exception):
    """Base of all errors that wsiseg raises on purpose."""


class UsageError(WsisegError, ValueError):
    """The arguments are wrong; nothing was started."""


class ConfigError(UsageError):
    """A setting is unknown or its value makes no sense."""


class UnknownModelError(UsageError):
    """No model of that name is registered."""


class DeviceError(UsageError, RuntimeError):
    """The device that was asked for is not there."""


class SlideError(WsisegError, OSError):
    """One slide cannot be used."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The slide file does not exist."""


class SlideFormatError(SlideError):
    """No reader understands the file, or its header is broken."""


class SlideReadError(SlideError):
    """Pixels of an otherwise good slide cannot be read."""


class SlideTimeoutError(SlideReadError, TimeoutError):
    """The drive that the slide lies on does not answer."""


class MppError(SlideError, ValueError):
    """The pixel size is missing, absurd, or differs between x and y."""


class CheckpointError(WsisegError, ValueError):
    """Weights or their card are missing, broken or do not fit."""


class DataError(WsisegError, ValueError):
    """Training data, truth or a GeoJSON file cannot be used."""


class ClusterError(WsisegError, ConnectionError):
    """A Dask cluster cannot be reached, has other software than this machine, or has gone."""


class OutOfMemoryError(WsisegError, MemoryError):
    """Not even one tile fits into the memory of the device."""


class OutputError(WsisegError, OSError):
    """A result cannot be written, or belongs to another run."""


def one_line(error: BaseException) -> str:
    """What an error of a library says, without line breaks, or else its name."""
    return " ".join(str(error).split()) or type(error).__name__
