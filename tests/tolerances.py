"""Every tolerance of the tests, named, with its reason."""

# One double-precision operation errs by 1.1e-16; the oracles' sums have a few hundred terms and are compared
# relative to their own size.
FLOAT64 = 1e-12
# The same sums in single precision, whose unit is 6e-8.
FLOAT32 = 1e-5
# A tangent asked for in float64 to 1e-10 relative residual. Its error is the residual times the condition number of
# g + λI, which the test problems keep below 1e4.
KKT_RESIDUAL = 1e-10
TANGENT = 1e-6
# An outside solver's bracketing root finder stops at 4 units of rounding of λ.
MULTIPLIER = 1e-9
# The boundary value problem is solved to 1e-8 relative residual on each interval; the speed along the solution, a
# conserved quantity of the exact one, then varies by less than this.
GEODESIC_SPEED = 1e-6
# A relaxed path of K legs has an energy below the exact one by c/K², as chords are shorter than arcs. The factor from
# K to 2K tends to 4; at 8 legs the next order still shows.
ENERGY_ORDER = 0.5
# What c/K² comes to on the toy network at 64 legs.
GEODESIC_ENERGY = 1e-3
# Share of the energy a relaxation may leave when it is compared with that limit: far below c/K².
RELAXATION = 1e-8
# Adding up K energies in double precision before comparing them with one another.
ENERGY_ROUNDING = 1e-10
