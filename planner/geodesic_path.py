def geodesic_points(*a, **k):
    return {}
