"""In tests, what "segue" logs is a warning too, so that one that nobody expects is an error."""

import logging
import warnings


class SegueWarning(UserWarning):
    """A notice that no callback took."""


class AsWarnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warnings.warn(record.getMessage(), SegueWarning, stacklevel=2)
