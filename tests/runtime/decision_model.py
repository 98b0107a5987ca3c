"""A page of plain rules of who decides, which knows no events and no order of things: only what is asked for now."""

POWER = ("C3", "C2", "C1")
"""All modes of the small bundle cost the same; then the later one of the plan counts as the lower."""
DWELL_S = 10
FOREVER = float("inf")


def lowest(asked):
    return min(asked, key=POWER.index)


class Model:
    """What is asked for, and what follows from it."""

    def __init__(self):
        self.now_s = 0
        self.manual = None
        self.holds = {}
        self.percent, self.plugged, self.celsius = 81, True, 50
        self.low = self.away = self.hot = False
        self.since = None

    def read(self):
        """A poll, at this moment."""
        self.low = self.percent < 30 or (self.low and self.percent <= 40)
        self.hot = self.celsius > 80 or (self.hot and self.celsius >= 70)
        if self.plugged is not self.away:
            self.since = None
        elif self.since is None:
            self.since = self.now_s
        if self.since is not None and self.now_s - self.since >= DWELL_S:
            self.away, self.since = not self.away, None
        self.end()

    def end(self):
        """What ends by itself has ended."""
        if self.manual and self.manual[1] <= self.now_s:
            self.manual = None
        self.holds = {name: hold for name, hold in self.holds.items() if hold[1] > self.now_s}

    def ask(self, mode, lease):
        self.manual = (mode, FOREVER if lease is None else self.now_s + lease)
        self.holds = {}

    def place(self, name, mode, ttl):
        self.holds[name] = (mode, FOREVER if ttl is None else self.now_s + ttl)
        self.end()

    def decided(self, manual=None):
        """Mode and rank; with ``manual``, if somebody asked for that."""
        if manual or self.manual:
            mode, rank = manual or self.manual[0], "manual"
        elif self.holds:
            mode, rank = lowest(hold[0] for hold in self.holds.values()), "hold"
        elif self.low or self.away:
            mode, rank = lowest(["C3"] * self.low + ["C2"] * self.away), "trigger"
        else:
            mode, rank = "C1", "default"
        if self.hot and POWER.index(mode) > POWER.index("C2"):
            return "C2", "safety"
        return mode, rank
