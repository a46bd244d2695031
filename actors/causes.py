"""The cause of a failure, out of what Serve says of it: tracebacks within tracebacks, of which the last line counts."""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"[A-Za-z_][\w.]*(: .*)?")
_WRAPPED = "Traceback (most recent call last):"


def cause_of(message: str) -> str:
    """The last line that names an exception, or the last line if none does; frames are indented, and no such lines."""
    told = _COLOURS.sub("", message).splitlines()
    lines = [line.rstrip() for line in told if line[:1].strip() and _WRAPPED not in line]
    raised = [line for line in lines if _RAISED.fullmatch(line)]
    return (raised or lines or [""])[-1]
