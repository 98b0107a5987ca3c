"""A small valid profile, as the text that tests damage."""

VALID = """\
schema: geoshift.profile/1
name: board
description: A board
threads: 4
memory:
  weights_bytes: 1000000
writes:
  bytes_per_increment: 65536
  increments_per_second: 1e2
  stall_budget_ms: 5
bank: {policy: auto, snap: true}
guard:
  max_drop_points: 1.0
queue_limit: 8
modes:
  C1: {}
  C2:
    from: C1
    remove:
      - layer: {role: convolution, position: 1}
        fraction: 0.5
  C3:
    from: C2
    remove:
      - layer: {name: fc1}
        count: 3
transitions:
  - [C1, C2]
  - [C2, C3]
"""
