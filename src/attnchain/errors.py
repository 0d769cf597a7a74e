"""Every error and warning of attnchain: what was expected, what came, what to do.

`ChainError` is the common base, for catching; it is never raised itself. Each class
also derives from the builtin a caller would expect (`ValueError`, `RuntimeError`,
`LookupError`, `ImportError`).
"""

import errno
from typing import Any


class ChainError(Exception):
    """Base of all errors raised by attnchain; catch it, it is never raised itself."""


class ArgumentError(ChainError, ValueError):
    """An argument is not what the call takes; the message names it and its range."""


class ShapeError(ArgumentError):
    """A tensor's axes, dtype or device do not fit the operator or each other."""


class GridError(ChainError, ValueError):
    """The token layout (prefix, rows, columns) of a model or input is not known."""


class NotStochasticError(ChainError, ValueError):
    """Rows do not sum to one, or entries are negative, infinite or not numbers."""


class ReducibleChainError(ChainError, ValueError):
    """The chain has more than one closed class, or states it never returns to."""


class ConvergenceError(ChainError, RuntimeError):
    """A solver stopped before its tolerance; `result` holds what it had reached.

    Attributes:
        result: The unfinished result, with its residual and counts.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class DerivativeError(ChainError, RuntimeError):
    """A derivative was asked for that is not computed; nothing is left out silently."""


class ToleranceError(ChainError, ValueError):
    """The tolerance is below what the arithmetic can certify; the floor is named."""


class CaptureError(ChainError, RuntimeError):
    """Attention could not be read from the running model."""


class UnsupportedModelError(CaptureError):
    """The model computes attention in a way that cannot be read."""


class SiteNotFoundError(CaptureError, LookupError):
    """No captured attention matches the asked layer, head, name or step."""


class WordNotFoundError(CaptureError, LookupError):
    """A word has no token positions: it is not in the text, or beyond its end."""


class NothingCapturedError(CaptureError):
    """The model ran, but no attention call was seen."""


class CaptureBudgetError(CaptureError):
    """Keeping the next record would exceed the byte budget given to the capture."""


class ModelNotFoundError(ChainError, LookupError):
    """No model of that name, or its weights cannot be reached."""


class ImageError(ChainError, ValueError):
    """A picture cannot be read, is too large, or a point lies outside it."""


class DataSetError(ChainError, ValueError):
    """An evaluation data set is missing, incomplete or not what its name says."""


class OutputError(ChainError, OSError):
    """A result cannot be written."""


class DeliveryError(ChainError, OSError):
    """A result was computed, and could not be printed."""


class MissingExtraError(ChainError, ImportError):
    """An optional package is not installed; the message names the extra to install."""


class NumericalWarning(UserWarning):
    """The answer is right to the stated bound, but the input is near a limit."""


class SlowMixingWarning(NumericalWarning):
    """The chain mixes so slowly that iterations or error bounds grow large."""


class PictureWarning(UserWarning):
    """A picture was read in a way that its file does not say; the message says how."""


class MaterializationWarning(UserWarning):
    """An n x n matrix above the memory budget is about to be stored."""


class UnreadAttentionWarning(UserWarning):
    """Part of a model's attention is missing from a capture; the message names it."""


class AssumptionWarning(UserWarning):
    """What a method takes for granted does not hold on these data."""


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch says that memory was not enough."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error)
    allocator = "can't allocate memory" in said or "out of memory" in said
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and allocator
    )
