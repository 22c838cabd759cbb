"""Ctrl-C and SIGTERM ask a training to stop after the step in hand; a second Ctrl-C stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A stage stopped because it was asked to; the checkpoint is written.

    Args:
        number: the signal, for the exit status (128 + number).
        where: what to tell the user: stage and step.
    """

    def __init__(self, number: int, where: str) -> None:
        super().__init__(where)
        self.number = number
        self.where = where


class StopRequest:
    """`number` is the signal that came, or 0."""

    number = 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside, SIGINT and SIGTERM set the request instead of killing. Only the main thread may install handlers."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
