"""Whole numbers that a user gives: how many, and seeds.

Owns the refusal. Must not know what the numbers are for.
"""

import numbers

from scgp.errors import ArgumentError


def whole_number(value: object, name: str, *, least: int) -> int:
    """Return a whole number, of Python or numpy, as an int.

    Raises
    ------
    ArgumentError
        It is none, or less than `least`.

    Examples
    --------
    >>> import numpy as np
    >>> whole_number(np.int64(3), "n", least=1)
    3
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        msg = f"{name} is {value!r}; expected a whole number of at least {least}"
        raise ArgumentError(msg)
    return int(value)
