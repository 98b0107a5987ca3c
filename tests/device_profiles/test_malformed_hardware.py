"""Fifty profiles that are wrong about hardware, and fifty messages: where, found, expected, what to do."""

from pathlib import Path

import pytest

from device_profiles import ProfileError, load, parse
from tests.device_profiles.texts import BOARD

FIGURE = "{value: 1, provenance: assumed, source: x}"

# Name, text replaced, its replacement, line, key, found, expected, what to do.
# fmt: off
FIFTY = (
    ("unknown architecture", "aarch64", "aarch46", 6, "target.architecture", "'aarch46'", "'aarch64' or 'any'",
     "did you mean 'aarch64'?"),
    ("live on a crossbar", "aarch64", "crossbar", 7, "target.runs", "'live' on architecture 'crossbar'",
     "'simulate', as ONNX Runtime does not run there", "write runs: simulate"),
    ("live on a microcontroller", "aarch64", "microcontroller", 7, "target.runs",
     "'live' on architecture 'microcontroller'", "'simulate'", "write runs: simulate"),
    ("unknown way to run", "runs: live", "runs: lively", 7, "target.runs", "'lively'", "'live' or 'simulate'",
     "did you mean 'live'?"),
    ("another provider", "runs: live", "provider: CUDAExecutionProvider", 7, "target.provider",
     "'CUDAExecutionProvider'", "'CPUExecutionProvider'", "did you mean 'CPUExecutionProvider'?"),
    ("a bare number for a figure", "{value: 1e9, provenance: measured, source: a run}", "1e9", 8,
     "target.macs_per_second", "1000000000.0", "a mapping with keys among value, provenance, source", "correct it"),
    ("no speed", "value: 1e9", "value: 0", 8, "target.macs_per_second.value", "0", "a number above 0",
     "give the number, or leave the figure out"),
    ("a figure without a source", ", source: a run", "", 8, "target.macs_per_second.source", "no such key", "text",
     "add it (the measurement, document or argument"),
    ("a figure with an empty source", "source: a run", "source: ''", 8, "target.macs_per_second.source", "''", "text",
     "correct it"),
    ("invented provenance", "measured, source: a run", "rumour, source: a run", 8, "target.macs_per_second.provenance",
     "'rumour'", "'assumed' or 'datasheet' or 'measured' or 'paper'", "correct it"),
    ("negative overhead", "value: 2, provenance: assumed", "value: -2, provenance: assumed", 9,
     "target.overhead_ms.value", "-2", "a finite number of at least 0", "correct it"),
    ("operator twice", "[Conv, Gemm, Relu]", "[Conv, Gemm, Conv]", 10, "target.operators[2]", "'Conv' again",
     "every operator once", "keep one of the two"),
    ("operator without a name", "[Conv, Gemm, Relu]", "[Conv, '', Relu]", 10, "target.operators[1]", "''", "text",
     "correct it"),
    ("mistyped field of the target", "operators", "operator", 10, "target.operator", "an unknown key",
     "one of architecture", "did you mean 'operators'?"),
    ("int8 as a format", "format: int", "format: int8", 12, "weights.format", "'int8'",
     "'float16' or 'float32' or 'int'",
     "did you mean 'int'?"),
    ("codes without bits", "  bits: 4\n", "", 11, "weights.bits", "no such key",
     "an integer of 2 to 16 with format 'int'",
     "add it"),
    ("one bit", "bits: 4", "bits: 1", 13, "weights.bits", "1", "an integer of at least 2 and of at most 16",
     "correct it"),
    ("too many bits", "bits: 4", "bits: 32", 13, "weights.bits", "32", "an integer of at least 2 and of at most 16",
     "correct it"),
    ("bits of a float", "format: int", "format: float16", 13, "weights.bits", "4",
     "none with format 'float16', which has its own bits", "drop it, or write format: int"),
    ("scale of a float", "format: int\n  bits: 4", "format: float32", 13, "weights.scale", "'layer'",
     "none with format 'float32', which has no codes", "drop it, or write format: int"),
    ("scales of a float", "format: int\n  bits: 4\n  scale: layer", "format: float32\n  scales: powers-of-two", 13,
     "weights.scales", "'powers-of-two'", "none with format 'float32'", "drop it, or write format: int"),
    ("sign of a float", "format: int\n  bits: 4\n  scale: layer", "format: float32", 13, "weights.sign",
     "'differential'", "none with format 'float32'", "drop it, or write format: int"),
    ("bias of a float", "format: int\n  bits: 4\n  scale: layer\n  sign: differential", "format: float32", 13,
     "weights.bias", "'int32'", "none with format 'float32'", "drop it, or write format: int"),
    ("scale a tensor", "scale: layer", "scale: tensor", 14, "weights.scale", "'tensor'", "'layer' or 'row'",
     "correct it"),
    ("unknown sign", "sign: differential", "sign: unsigned", 15, "weights.sign", "'unsigned'",
     "'differential' or 'signed'", "did you mean 'signed'?"),
    ("second copy in words", "second_copy: false", "second_copy: no", 19, "memory.second_copy", "'no'", "true or false",
     "correct it"),
    ("shadow without a second copy", "policy: in-place", "policy: shadow", 31, "bank.policy", "'shadow'",
     "'in-place', 'persistent' or 'auto', as memory.second_copy is false", "name another policy"),
    ("shadow in a device that has to stand still", "second_copy: false\nwrites:", "second_copy: true\nwrites:", 31,
     "bank.policy", "'shadow'", "'in-place', 'persistent' or 'auto', as writes.quiesce_required is true",
     "name another policy"),
    ("granularity above the budget", "granularity_bytes: 16", "granularity_bytes: 8192", 24, "writes.granularity_bytes",
     "8192", "at most 4096, as writes.bytes_per_increment says", "raise writes.bytes_per_increment"),
    ("no granularity", "granularity_bytes: 16", "granularity_bytes: 0", 24, "writes.granularity_bytes", "0",
     "an integer of at least 1", "correct it"),
    ("memory that takes nothing", "value: 2e5", "value: 0", 25, "writes.bytes_per_second.value", "0",
     "a number above 0", "give the rate, or leave the figure out"),
    ("less than one write", "value: 9", "value: 0.5", 27, "writes.verify.mean_writes.value", "0.5",
     "at least 1, the first write, and at most 100", "correct one of the two"),
    ("mean above the most", "most_writes: 100", "most_writes: 5", 27, "writes.verify.mean_writes.value", "9",
     "at least 1, the first write, and at most 5, as writes.verify.most_writes says", "correct one of the two"),
    ("no write at most", "most_writes: 100", "most_writes: 0", 28, "writes.verify.most_writes", "0",
     "an integer of at least 1 and of at most 1000", "correct it"),
    ("verify without a limit", "    most_writes: 100\n", "", 26, "writes.verify.most_writes", "no such key",
     "an integer of at least 1", "add it (writes after which a row counts as broken)"),
    ("cells that stand no write", "value: 1e6", "value: 0", 29, "writes.endurance_writes.value", "0", "at least 1",
     "give the writes that a cell stands"),
    ("quiesce as a time", "quiesce_required: true", "quiesce_required: 5", 30, "writes.quiesce_required", "5",
     "true or false", "correct it"),
    ("unknown trade-off", "trade_off: energy", "trade_off: power", 33, "trade_off", "'power'",
     "'accuracy' or 'bytes' or 'energy' or 'seconds' or 'wear'", "did you mean 'wear'?"),
    ("energy that nobody knows", "  joules_per_byte_written: {value: 1e-9, provenance: assumed, source: a guess}\n",
     "", 33,
     "trade_off", "'energy', but no energy.joules_per_byte_written", "the figure that it is computed from",
     "add it, or minimise bytes"),
    ("no load", "inferences_per_second: 30", "inferences_per_second: 0", 38, "energy.inferences_per_second", "0",
     "a finite number above 0", "correct it"),
    ("watts without a load", "  inferences_per_second: 30\n", "", 40, "modes.C2.watts",
     "3, but no energy.inferences_per_second", "the figures that it is computed from",
     "add them, or give the mode as 'macs'"),
    ("watts below rest", "watts: 3", "watts: 1.5", 41, "modes.C2.watts", "1.5",
     "more than 2, energy.idle_w, which no network goes below", "raise it"),
    ("no watts", "watts: 3", "watts: 0", 41, "modes.C2.watts", "0", "a finite number above 0", "correct it"),
    ("latency below the overhead", "latency_ms: 20", "latency_ms: 2", 42, "modes.C3.latency_ms", "2",
     "more than 2, target.overhead_ms, which every inference takes", "raise it"),
    ("latency without a speed", "  macs_per_second: {value: 1e9, provenance: measured, source: a run}\n", "", 41,
     "modes.C3.latency_ms", "20, but no target.macs_per_second", "the figures that it is computed from",
     "add them, or give the mode as 'macs'"),
    ("two targets", "latency_ms: 20", "latency_ms: 20, watts: 3", 42, "modes.C3", "'watts' and 'latency_ms'",
     "at most one of 'macs', 'watts' and 'latency_ms'", "drop the others"),
    ("dense mode with watts", "C1: {}", "C1: {watts: 3}", 40, "modes.C1.watts", "a change in the dense mode", "none",
     "add 'from', or move the change"),
    ("origin of no number", "  threads: {provenance: datasheet", "  thread: {provenance: datasheet", 45,
     "origins.thread",
     "no number of this profile", "the path of one, such as writes.bytes_per_increment", "did you mean 'threads'?"),
    ("origin of a figure", "  threads: {provenance: datasheet", "  energy.idle_w: {provenance: datasheet", 45,
     "origins.'energy.idle_w'", "a figure", "a plain number, since a figure says itself where it comes from",
     "remove it, and write provenance and source at energy.idle_w"),
    ("origin of a word", "  threads: {provenance: datasheet", "  weights.format: {provenance: datasheet", 45,
     "origins.'weights.format'", "no number of this profile", "the path of one",
     "did you mean 'weights.bits'? correct or remove it"),
    ("origin without a source", "{provenance: datasheet, source: one core}", "{provenance: datasheet}", 45,
     "origins.threads.source", "no such key", "text", "add it"),
)
# fmt: on


def test_the_undamaged_text_is_accepted() -> None:
    assert parse(BOARD, "text").weights.bits == 4
    assert len(FIFTY) == len({case[0] for case in FIFTY}) >= 50


@pytest.mark.parametrize("case", FIFTY, ids=lambda case: case[0])
def test_fifty_malformed_profiles_give_fifty_precise_messages(case: tuple[str, ...], tmp_path: Path) -> None:
    _, old, new, line, key, found, expected, remedy = case
    assert old in BOARD
    text = BOARD.replace(old, new, 1)
    if case[0] == "shadow in a device that has to stand still":
        text = text.replace("policy: in-place", "policy: shadow")
    place = tmp_path / "board.yaml"
    place.write_text(text)
    with pytest.raises(ProfileError) as caught:
        load(place)
    start = f"{place}, line {line}: {key}: found {found}"
    message = next((said for said in str(caught.value).splitlines() if said.startswith(start)), str(caught.value))
    assert message.startswith(start)
    assert f", expected {expected}" in message
    assert f"; {remedy}" in message
