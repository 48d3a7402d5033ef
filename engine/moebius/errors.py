"""Every error a user can meet. Each message says what went wrong, where, and what to do next."""


class MoebiusError(Exception):
    """Base of all errors raised on purpose. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(MoebiusError, ValueError):
    """The caller's arguments are wrong: a shape, a dtype, a value, a file that is not what it should be."""

    exit_code = 2


class EmptyMaskError(UsageError):
    """The mask marks nothing, so there is nothing to fill in."""


class WeightError(MoebiusError):
    """The weights do not fit the model: missing, unexpected, of another shape or type, or not finite."""


class AdapterError(MoebiusError):
    """No adapter, or not the one asked for."""


class LimitError(MoebiusError):
    """A tensor, a grid or a loop is larger than the adapter allows. Both numbers are in the message."""


class DeviceLostError(MoebiusError):
    """The GPU device went away, or refused memory."""


class OutOfMemoryError(DeviceLostError):
    """The GPU device refused memory; what it had before is still there."""


class NonFiniteError(MoebiusError):
    """A NaN or infinity appeared; the message names the op, the step and the adapter."""
