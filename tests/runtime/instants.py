"""Every instant of a walk at which another thread could act."""

import threading

from runtime.errors import IllegalEvent
from runtime.walking import controller
from runtime.walking.table import Phase


class Instants:
    """Opens a network, acts at one instant of a walk, and gives it away with the operation; for every instant.

    An instant is one just before a line that the walk runs in the controller, where another thread could act too: not
    while the walk holds the lock. It acts on the walk's own thread, so nothing else happens at the same time.

    Args:
        make: Opens a network.
        act: What to do to it.
        begin: Begins the walk, C1 → C2 if nothing else is said; the operation.
    """

    def __init__(self, make, act, begin=lambda net: net.switch("C2")):
        self._make, self._act, self._begin = make, act, begin
        self.walk = None
        """The thread of the walk."""

    def __iter__(self):
        number, self._seen = 0, 0
        while self._seen >= number:
            number, self._seen, self.walk = number + 1, 0, None
            net = self._make()
            threading.settrace(self._tracer(net, number))
            try:
                operation = self._begin(net)
                yield net, operation
                self.walk.join()
            finally:
                threading.settrace(None)
                net.close()
        assert number > 40, "the walk was never traced"

    def _tracer(self, net, number):
        def line(frame, event, _):
            if event == "line" and not net._controller._changed._is_owned():
                self._seen += 1
                if self._seen == number:
                    self._act(net)
            return line

        def trace(frame, *_):
            me = threading.current_thread()
            if self.walk is None and me.name == "geoshift-walk":
                self.walk = me
            return line if me is self.walk and frame.f_code.co_filename == controller.__file__ else None

        return trace


def cancel(net):
    if net._controller._current is None:
        return
    try:
        net._controller._current.cancel()
    except IllegalEvent:
        assert net.phase in (Phase.VERIFYING, Phase.ROLLING_BACK)
