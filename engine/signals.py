"""Ask a run to stop: SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (schedulers, before they take a machine) set a flag."""
import signal

EXIT_STOPPED = 3        # the exit code of a run that saved itself and can be resumed


class StopRequest:
    """While entered, the signals only set `self.name`; the loop looks at it between optimizer steps.

    A second Ctrl-C interrupts at once, for whoever does not want to wait for the step.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.name = ""

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return bool(self.name)

    def _note(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
