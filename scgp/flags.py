"""Errors of the verbs, told on the command line: options in place of arguments of Python.

Owns no message; knows what the verbs' errors advise.
"""

import re

# What errors advise in Python, as options of the command line.
_AS_FLAGS = (
    (r"layer= and use_raw= are arguments of .* passed as index=",
     "--layer and --use-raw are options of 'python -m scgp index', and its output is --index"),
    (r"pass layer='([^']*)'", r"pass --layer '\1'"), (r"pass use_raw=True", "pass --use-raw"),
    (r"pass use_raw=False", "leave out --use-raw"),
)  # fmt: skip


def in_flags(message: str) -> str:
    """Return an error's message with options where it names arguments of Python."""
    for argument, flag in _AS_FLAGS:
        message = re.sub(argument, flag, message)
    return message
