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

BOARD = """\
schema: geoshift.profile/1
name: crossbar
description: A board that says all there is to say of hardware
threads: 1
target:
  architecture: aarch64
  runs: live
  macs_per_second: {value: 1e9, provenance: measured, source: a run}
  overhead_ms: {value: 2, provenance: assumed, source: a guess}
  operators: [Conv, Gemm, Relu]
weights:
  format: int
  bits: 4
  scale: layer
  sign: differential
  bias: int32
memory:
  weights_bytes: 1000000
  second_copy: false
writes:
  bytes_per_increment: 4096
  increments_per_second: 2
  stall_budget_ms: 250
  granularity_bytes: 16
  bytes_per_second: {value: 2e5, provenance: assumed, source: a guess}
  verify:
    mean_writes: {value: 9, provenance: paper, source: a paper}
    most_writes: 100
  endurance_writes: {value: 1e6, provenance: paper, source: a paper}
  quiesce_required: true
bank: {policy: in-place}
guard: {max_drop_points: 1.0}
trade_off: energy
energy:
  idle_w: {value: 2, provenance: measured, source: a meter}
  joules_per_mac: {value: 1e-10, provenance: measured, source: a meter}
  joules_per_byte_written: {value: 1e-9, provenance: assumed, source: a guess}
  inferences_per_second: 30
modes:
  C1: {}
  C2: {from: C1, watts: 3}
  C3: {from: C1, latency_ms: 20}
transitions: [[C1, C2], [C2, C3]]
origins:
  threads: {provenance: datasheet, source: one core}
  writes.stall_budget_ms: {provenance: assumed, source: a choice}
"""
"""A small valid profile that says all there is to say of hardware."""
