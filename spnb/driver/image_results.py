"""Results of a network on many images, of which the next is opened while one runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import RunError
from ..io.sources import Source

if TYPE_CHECKING:
    from .result import Result

Opened = dict[str, Source]


class ImageResults(Iterator["Result"]):
    """An iterator of the results of many images; `spnb.driver.session.Session.map` returns it.

    Parameters
    ----------
    images
        What each run is given.
    open_image
        Opens an image, in a thread beside the run of the one before.
    run
        Runs the network on an opened image.
    """

    def __init__(
        self,
        images: Iterable[Any],
        open_image: Callable[[Any], Opened],
        run: Callable[[Opened], Result],
    ):
        self._images, self._open, self._run = enumerate(images), open_image, run
        self._thread = ThreadPoolExecutor(1, "spnb-open")
        self._next: tuple[str, Future[Opened]] | None = None
        weakref.finalize(self, self._thread.shutdown, wait=False)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        """The result of the next image.

        Raises
        ------
        ValueError, RunError
            If it cannot be opened or run; the message has its name.
        """
        name, opening = self._next or self._begun()
        self._next = None
        try:
            opened = opening.result()
        except Exception as error:
            raise _named(error, name) from None
        try:
            self._next = self._begun()
        except StopIteration:
            self._thread.shutdown(wait=False)
        except Exception as error:  # of the iterator of images: the next call raises it
            failed: Future[Opened] = Future()
            failed.set_exception(error)
            self._next = "the images", failed
        try:
            return self._run(opened)
        except Exception as error:
            raise _named(error, name) from None

    def _begun(self) -> tuple[str, Future[Opened]]:
        """The name of an image, and its opening, which has begun."""
        number, image = next(self._images)
        is_file = isinstance(image, str | PathLike)
        return fspath(image) if is_file else f"image {number}", self._thread.submit(
            self._open, image
        )


def _named(error: Exception, name: str) -> Exception:
    """An error with the name of the image in its message."""
    if Path(name).name in str(error):
        return error
    kind = ValueError if isinstance(error, (ValueError, OSError)) else RunError
    return kind(f"{name}: {error}")
