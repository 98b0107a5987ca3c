"""Small traces of the synthetic bundle, and a latency that is no machine's."""

from runtime.simulation.trace import Arrivals, ByHand, Readings, Trace, checked

LATENCY = {"C1": 2e-3, "C2": 1e-3, "C3": 1e-3, "live": 3e-3}


def trace(**changes):
    """Forty seconds: C2 at 5 s, C3 at 15 s, C1 at 25 s, a hundred requests a second."""
    given = {
        "schema": "geoshift.trace/1",
        "name": "test",
        "seconds": 40.0,
        "requests": (Arrivals(kind="poisson", per_second=100.0),),
        "manual": (ByHand(at_s=5, mode="C2"), ByHand(at_s=15, mode="C3"), ByHand(at_s=25, mode="C1")),
    }
    return checked(Trace(**{**given, **changes}), "test trace")


def heated(*levels, dwell_s=0.0, seconds=40.0, **changes):
    """A trigger on a temperature that is given at ``levels``."""
    from device_profiles import Trigger

    hot = Trigger(name="hot", mode="lowest", source="temperature", enter_above=80.0, leave_below=70.0, dwell_s=dwell_s)
    return trace(manual=(), seconds=seconds, triggers=(hot,), readings=Readings(temperature=tuple(levels)), **changes)
