"""Every tolerance of the tests, named, with its reason."""

# One double-precision operation errs by 1.1e-16; the oracles' sums have a few hundred terms and are compared
# relative to their own size.
FLOAT64 = 1e-12
# The same sums in single precision, whose unit is 6e-8.
FLOAT32 = 1e-5
# A finite difference of step 1e-5 is off by curvature × step, and curvature is of order one on the toy networks.
FINITE_STEP = 1e-3
# Tangents are asked for to this relative residual in float64; rounding stands three orders below, as the test
# problems keep the condition number of g + λI below 1e6.
KKT_RESIDUAL = 1e-8
# Error of a tangent over its radius: at most the residual times |(β/2) v| / (λ Δ), which those problems bound by 100.
TANGENT = 1e-6
# |θ| = Δ comes from a root found to a unit of rounding, and an orthonormal basis good to some.
RADIUS = 1e-10
# The boundary value problem is solved to 1e-6 relative residual a mesh interval; the speed along its solution, constant
# on an exact geodesic, varied by 2e-9.
GEODESIC_SPEED = 1e-7
# A relaxed path of K legs lies below the exact energy by c/K², as chords are shorter than arcs. From K to 2K the gap
# shrinks by a factor of 4.0 to 4.1 on the toy network.
ENERGY_ORDER = 0.2
# c/K² at 32 legs is 2.3e-4 of the energy there, and the waypoints lie within 9e-4 of the exact geodesic.
GEODESIC_ENERGY = 3e-4
GEODESIC_POINT = 1e-3
# Share of the energy a relaxation may leave where it is compared with that limit: far below c/K².
RELAXATION = 1e-8
