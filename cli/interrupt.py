"""SIGTERM and SIGHUP end a run as Ctrl-C does, and none of the three is lost."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_PATIENCE = 1.0  # seconds for a signal to be acted on before it is sent again


class Interruption:
    """Raises `KeyboardInterrupt` in the main thread at a signal, and sees to it that it comes there.

    Python acts on signals in its main thread. If the kernel gives one to another thread while the main one waits for
    a lock, nothing wakes that, and the run would go on for hours; and what is raised while an object is destroyed ends
    nothing. So a thread that the interpreter tells of every signal sends it once more, to the main thread, if nothing
    came of it.
    """

    def __init__(self) -> None:
        self._raised = -math.inf  # when, by the clock that only goes forward

    def begin(self) -> None:
        """From now on; called in the main thread.

        What is ignored stays so: SIGHUP under `nohup`, and SIGINT in what a shell runs in the background.
        """
        for number in [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._raise)
        sys.unraisablehook = self._unraisable
        if sys.platform != "win32":  # it gives signals to no other thread
            receiver, sender = os.pipe()
            os.set_blocking(sender, False)
            signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
            threading.Thread(target=self._insist, args=(receiver,), daemon=True).start()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self._raised = time.monotonic()
        raise KeyboardInterrupt

    def _unraisable(self, found: sys.UnraisableHookArgs) -> None:
        """What is raised where nothing can catch it.

        Some of GDAL's words on a damaged file are no UTF-8, and rasterio fails to log them; the file's error is told.
        """
        if isinstance(found.exc_value, KeyboardInterrupt):
            self._raised = -math.inf
        elif not isinstance(found.exc_value, UnicodeDecodeError):
            sys.__unraisablehook__(found)

    def _insist(self, receiver: int) -> None:
        """Read the signals' numbers as they come, those sent here too; on a thread of its own, to the very end."""
        while True:
            number = os.read(receiver, 1)[0]
            time.sleep(_PATIENCE)
            ours = signal.getsignal(number) == self._raise
            if ours and time.monotonic() - self._raised > 2 * _PATIENCE:
                signal.pthread_kill(threading.main_thread().ident or 0, number)
