"""Ask a run to stop: SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (schedulers, before they take a machine)."""
import signal

EXIT_STOPPED = 3        # the exit code of a run that was stopped and can be resumed


class Stopped(BaseException):
    """A signal asked the run to stop; not an Exception, so that nobody takes it for an error and goes on."""


class StopRequest:
    """While entered, one of the signals raises Stopped; from `defer` on it only sets `name`, which is looked at between steps.

    A second Ctrl-C interrupts at once, for whoever does not want to wait for the step. Other signals that come again, as
    torchrun passes on what a scheduler sends to all processes, change nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.name = ""
        self.deferred = False

    def defer(self) -> None:
        """From now on there is something to save first."""
        self.deferred = True

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return bool(self.name)

    def _note(self, number: int, frame: object) -> None:
        first, name = not self.name, signal.Signals(number).name
        if name == self.name == "SIGINT":
            raise KeyboardInterrupt
        self.name = name
        if first and not self.deferred:
            raise Stopped
