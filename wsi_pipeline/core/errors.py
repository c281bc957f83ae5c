"""The errors that wsiseg raises on purpose.

::

    WsisegError
    ├── UsageError        an argument is wrong; the command line exits with 2
    │   ├── ConfigError
    │   ├── UnknownModelError
    │   └── DeviceError
    ├── SlideError        one slide cannot be used; the others are processed
    │   ├── SlideNotFoundError
    │   ├── SlideFormatError
    │   ├── SlideReadError
    │   │   └── SlideTimeoutError
    │   └── MppError
    ├── CheckpointError   weights or their card cannot be used
    ├── DataError         training data, truth, GeoJSON or a run folder cannot be used
    ├── ClusterError      the Dask cluster cannot be reached, has other software, or was lost
    ├── OutOfMemoryError  one tile does not fit into the memory of the device
    └── OutputError       a result cannot be written, or another run owns it

A message has one line: what is wrong, the value, and what to do.
Each class also inherits the matching builtin exception, so that ``except OSError`` works too.
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
    """Base of all errors that wsiseg raises on purpose.

    What of a message cannot be printed, for example a name in a damaged file, is escaped.
    """

    def __str__(self) -> str:
        return _printable(super().__str__().replace("\n", " "))


class UsageError(WsisegError, ValueError):
    """The arguments are wrong; nothing was started."""


class ConfigError(UsageError):
    """A setting is unknown, or its value is out of range."""


class UnknownModelError(UsageError):
    """No model is registered under this name."""


class DeviceError(UsageError, RuntimeError):
    """The machine does not have the requested device."""


class SlideError(WsisegError, OSError):
    """One slide cannot be used."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The slide file does not exist."""


class SlideFormatError(SlideError):
    """No reader supports the file, or its header is damaged."""


class SlideReadError(SlideError):
    """Pixels of an open slide cannot be read."""


class SlideTimeoutError(SlideReadError, TimeoutError):
    """A read of the slide took longer than `RunConfig.read_timeout_s`."""


class MppError(SlideError, ValueError):
    """The pixel size is missing or implausible, or differs between x and y."""


class CheckpointError(WsisegError, ValueError):
    """A checkpoint or its card is missing, damaged, or of another architecture."""


class DataError(WsisegError, ValueError):
    """Training data, truth, a GeoJSON file or a run folder cannot be used."""


class ClusterError(WsisegError, ConnectionError):
    """A Dask cluster cannot be reached, has other software than this machine, or was lost."""


class OutOfMemoryError(WsisegError, MemoryError):
    """One tile does not fit into the memory of the device."""


class OutputError(WsisegError, OSError):
    """A result cannot be written, or another run owns it."""


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks, or its class name where it has none.

    What cannot be printed, for example bytes of a damaged file, is escaped.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return _printable(text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
