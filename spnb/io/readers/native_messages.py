"""What libraries say beside their errors, such as libtiff's complaint about a damaged file."""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = 2

_one_at_a_time = threading.Lock()
_one_warns = threading.Lock()


@contextmanager
def messages_caught() -> Iterator[list[str]]:
    """Catch the lines that are printed on standard error in a ``with`` block.

    Python has no way to ask a library in C for its messages, so the whole process's standard error
    goes to a file meanwhile.  If the block ends without an error, the lines are printed after it.

    Yields
    ------
    list of str
        Empty until the block ends; then the lines.

    Examples
    --------
    >>> import contextlib
    >>> with contextlib.suppress(OSError), messages_caught() as lines:
    ...     _ = os.write(2, b"TIFFFillStrip: Read error on strip 0.\\n")
    ...     raise OSError(-2)
    >>> lines
    ['TIFFFillStrip: Read error on strip 0.']
    """
    lines: list[str] = []
    with _one_at_a_time, tempfile.TemporaryFile() as file:
        before = os.dup(_STANDARD_ERROR)
        os.dup2(file.fileno(), _STANDARD_ERROR)
        failed = True
        try:
            yield lines
            failed = False
        finally:
            os.dup2(before, _STANDARD_ERROR)
            os.close(before)
            file.seek(0)
            printed = file.read()
            lines += printed.decode(errors="replace").splitlines()
            if not failed and printed:
                os.write(_STANDARD_ERROR, printed)


@contextmanager
def warnings_after_success() -> Iterator[None]:
    """Show warnings once the block has ended; if it fails, its error says what is wrong.

    Examples
    --------
    >>> import contextlib, warnings
    >>> with contextlib.suppress(OSError), warnings_after_success():
    ...     warnings.warn("a tag is damaged")
    ...     raise OSError
    """
    with _one_warns, warnings.catch_warnings(record=True) as held:
        yield
    for each in held:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
