"""Bounds over the states of a write: sound by enumeration, exact where they must be, true of the runtime's answers."""

from __future__ import annotations

from itertools import chain, product

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from planner.adversary import Search, margin, worst_margin
from planner.blocks import divide
from planner.bounds import LINEAR, Bounds
from planner.certificate import certify, population_bound, stages_of
from planner.cost import CostMeter
from planner.deploy import row_table
from planner.endpoint_search import EndPointSearch
from planner.export import export_live
from planner.modes import ModeTarget
from planner.network import Network, trace
from planner.reachable import Writes, reachable
from planner.rounding import output_error
from planner.tail import CannotBound, Tail
from runtime.plan.evaluation import Evaluator, random_tears
from runtime.plan.samples import Samples
from runtime.walking.session import Session
from runtime.walking.strategies import ordered

ROUNDING = 1e-9
"""Of margins of about 1, in float64."""


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Convolutional(nn.Module):
    """Padding, overlapping maxima, an operation in place, a residual sum, a concatenation, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.d = nn.Conv2d(3, 3, 3, padding="same", stride=1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        self.mean, self.c = nn.AvgPool2d(2), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.relu(self.b(self.relu(self.a(x))))
        second = self.pool(self.relu(self.d(first) - 0.5) + first)
        both = torch.cat([second, self.pool(first)], dim=1)
        return self.c(self.mean(both.sigmoid() + both).view(x.size(0), -1))


def network(kind: type[nn.Module], *shape: int) -> tuple[Network, Tensor]:
    torch.manual_seed(3)
    inputs = torch.randn(6, *shape)
    return trace(kind(), inputs[:2]), inputs.double()


def written(net: Network, layer: str, rows: list[int], size: float = 1.0) -> Writes:
    """Random new values of some rows."""
    torch.manual_seed(5)
    before = {name: tensor.double() for name, tensor in net.module.state_dict().items()}
    after = dict(before)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        after[name] = before[name].clone()
        after[name][rows] += size * before[name].std() * torch.randn_like(before[name][rows])
    return Writes(layer, torch.tensor(rows), before, after)


def state(writes: Writes, whole: tuple[bool, ...], torn: tuple[int, int, bool] | None) -> dict[str, Tensor]:
    """Weights with some rows new and one torn at a place, forwards or backwards."""
    names = [f"{writes.layer}.weight", f"{writes.layer}.bias"]
    old, new = (
        torch.cat([one[names[0]].flatten(1), one[names[1]][:, None]], 1) for one in (writes.before, writes.after)
    )
    rows = old.clone()
    for number, row in enumerate(writes.rows.tolist()):
        rows[row] = new[row] if whole[number] else old[row]
        if torn is not None and torn[0] == number:
            first, second = (new, old) if torn[2] else (old, new)
            rows[row] = torch.cat([first[row, : torn[1]], second[row, torn[1] :]])
    changed = {names[0]: rows[:, :-1].reshape(writes.before[names[0]].shape), names[1]: rows[:, -1]}
    return {**writes.before, **changed}


def answered(net: Network, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = torch.func.functional_call(net.module.double(), weights, (inputs,))
    return found


CASES = [
    (Perceptron, (6,), "a", [0, 2, 3]),
    (Perceptron, (6,), "b", [0, 1, 3]),
    (Perceptron, (6,), "c", [0, 2]),
    (Convolutional, (1, 7, 7), "a", [1, 2]),
    (Convolutional, (1, 7, 7), "b", [0, 2]),
    (Convolutional, (1, 7, 7), "d", [0, 1, 2]),
]


@pytest.mark.parametrize(("kind", "shape", "layer", "rows"), CASES)
def test_no_state_lies_below_its_bound(kind, shape, layer, rows):
    net, inputs = network(kind, *shape)
    writes = written(net, layer, rows)
    tail = Tail(net, layer, writes.before, inputs)
    labels = tail.values[tail.output].argmax(1)
    width = writes.before[f"{layer}.weight"][0].numel() + 1
    places = sorted({0, 1, width // 2, width - 1, width})
    least = {False: torch.full((6,), torch.inf), True: torch.full((6,), torch.inf)}
    for whole in product((False, True), repeat=len(rows)):
        for torn in (None, *product(range(len(rows)), places, (False, True))):
            found = margin(answered(net, state(writes, whole, torn), inputs), labels)
            least[torn is not None] = torch.minimum(least[torn is not None], found)
    for torn in (False, True):
        reach = reachable(tail, writes)
        for tighten in (False, True):
            bounds = Bounds(tail, reach, writes.rows, torn=torn, tighten=tighten)
            found = {rule: bounds.margins(labels, rule).amin(1) for rule in ("interval", *chain(*LINEAR))}
            for rule, bound in found.items():
                assert (bound <= least[torn] + ROUNDING).all(), rule
            assert (torch.stack(list(found.values())).amax(0) > least[torn] - 40 * least[torn].abs() - 40).all()
        searched = worst_margin(tail, writes, labels, torn=torn, search=Search(), cost=CostMeter())
        assert (searched >= found["nearest"] - ROUNDING).all()
        if not torn:
            assert (searched >= least[False] - ROUNDING).all()


@pytest.mark.parametrize(("kind", "shape", "layer", "first"), [
    (Perceptron, (6,), "a", "b"), (Convolutional, (1, 7, 7), "a", "b"), (Convolutional, (1, 7, 7), "b", "d"),
])  # fmt: skip
def test_every_node_stays_within_its_interval(kind, shape, layer, first):
    net, inputs = network(kind, *shape)
    writes = written(net, layer, [0, 2])
    tail = Tail(net, layer, writes.before, inputs)
    reach = reachable(tail, writes)
    bounds = {torn: Bounds(tail, reach, writes.rows, torn=torn) for torn in (False, True)}
    width = writes.before[f"{layer}.weight"][0].numel() + 1
    reader = next(step.node for step in tail.steps if step.node.target == first)
    least = torch.full_like(tail.values[reader], torch.inf)
    for whole in product((False, True), repeat=2):
        for torn in (None, *product(range(2), (1, width // 2, width - 1), (False, True))):
            values = Tail(net, layer, state(writes, whole, torn), inputs).values
            if torn is None:
                least = torch.minimum(least, values[reader])
            for node in (tail.node, *(step.node for step in tail.steps)):
                low, high = bounds[torn is not None].box(node)
                assert (low - ROUNDING <= values[node]).all(), node
                assert (values[node] <= high + ROUNDING).all(), node
    # The first layer that reads the units is bounded exactly; a torn row reaches further than whole ones.
    torch.testing.assert_close(bounds[False].box(reader)[0], least, rtol=0, atol=ROUNDING)
    assert (bounds[True].box(reader)[0] < least - ROUNDING).any()


@pytest.mark.parametrize("layer", ["b", "c"])
def test_bounds_of_whole_rows_are_attained_where_one_layer_reads_them(layer):
    net, inputs = network(Perceptron, 6)
    writes = written(net, layer, [0, 1, 2])
    tail = Tail(net, layer, writes.before, inputs)
    labels = tail.values[tail.output].argmax(1)
    least = torch.stack([
        margin(answered(net, state(writes, whole, None), inputs), labels)
        for whole in product((False, True), repeat=3)
    ]).amin(0)  # fmt: skip
    bound = Bounds(tail, reachable(tail, writes), writes.rows, torn=False).margins(labels, "interval").amin(1)
    torch.testing.assert_close(bound, least, rtol=0, atol=ROUNDING)
    searched = worst_margin(tail, writes, labels, torn=False, search=Search(targets=2), cost=CostMeter())
    assert (searched - least).median() < ROUNDING


def test_tightened_intervals_are_no_wider():
    net, inputs = network(Convolutional, 1, 7, 7)
    writes = written(net, "a", [0, 1], 0.3)
    tail = Tail(net, "a", writes.before, inputs)
    labels, reach = tail.values[tail.output].argmax(1), reachable(tail, writes)
    loose, tight = (Bounds(tail, reach, writes.rows, torn=True, tighten=tighten) for tighten in (False, True))
    gain = tight.margins(labels, "nearest") - loose.margins(labels, "nearest")
    assert gain[torch.isfinite(gain)].min() > -ROUNDING
    assert gain[torch.isfinite(gain)].max() > 0


class Cancelling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_a_torn_row_is_no_mixture_of_old_and_new():
    net = trace(Cancelling(), torch.ones(2, 2))
    before = {
        "a.weight": torch.zeros(1, 2), "a.bias": torch.ones(1),
        "b.weight": torch.tensor([[1.0], [0.0]]), "b.bias": torch.zeros(2),
    }  # fmt: skip
    before = {name: tensor.double() for name, tensor in before.items()}
    after = {**before, "a.weight": torch.tensor([[-3.0, 3.0]], dtype=torch.float64)}
    writes = Writes("a", torch.tensor([0]), before, after)
    tail = Tail(net, "a", before, torch.ones(1, 2, dtype=torch.float64))
    labels = torch.tensor([0])
    reach = reachable(tail, writes)
    # Old and new compute 1 on (1, 1), but the first number alone makes it 1 - 3, and, on the way back, 1 + 3.
    assert (reach[tail.node].low.item(), reach[tail.node].high.item()) == (-2, 4)
    bounds = {torn: Bounds(tail, reach, writes.rows, torn=torn).margins(labels, "interval") for torn in (False, True)}
    assert bounds[False].amin() == 1
    assert bounds[True].amin() == 0
    assert worst_margin(tail, writes, labels, torn=True, search=Search(), cost=CostMeter()).item() == 0
    # One number of three, as only a memory that writes in any order can leave it.
    three = reachable(tail, Writes("a", writes.rows, before, {**after, "a.bias": before["a.bias"] - 2}), "set")
    assert (three[tail.node].low.item(), three[tail.node].high.item()) == (-4, 4)


@pytest.mark.parametrize(("kind", "shape", "layer", "rows"), CASES)
def test_float32_stays_within_the_error_that_is_left_over(kind, shape, layer, rows):
    net, inputs = network(kind, *shape)
    writes = written(net, layer, rows)
    singles = {
        name: {key: tensor.float().double() for key, tensor in one.items()}
        for name, one in (("before", writes.before), ("after", writes.after))
    }
    writes = Writes(layer, writes.rows, singles["before"], singles["after"])
    inputs = inputs.float().double()
    tail = Tail(net, layer, writes.before, inputs)
    error = output_error(tail, Bounds(tail, reachable(tail, writes), writes.rows, torn=True), writes)
    for whole in product((False, True), repeat=len(rows)):
        weights = state(writes, whole, (0, 3, True))
        exact = answered(net, weights, inputs)
        with torch.no_grad():
            single = torch.func.functional_call(
                net.module.float(), {name: tensor.float() for name, tensor in weights.items()}, (inputs.float(),)
            )
        assert ((single.double() - exact).abs() <= error).all()
    assert error.max() < 1e-3


@pytest.mark.parametrize(("proved", "samples"), [(1, 1), (97, 100), (9731, 10_000), (100, 100)])
def test_the_population_bound_is_clopper_and_pearsons(proved, samples):
    bound = population_bound(proved, samples)
    assert binom.sf(proved - 1, samples, bound) == pytest.approx(0.05, rel=1e-6)
    assert bound < proved / samples


def test_nothing_proved_bounds_nothing():
    assert population_bound(0, 100) == 0


@pytest.fixture(scope="module")
def plan(digits, trained):
    """C1 → C2 of the digits network, half of conv1 and a quarter of fc1 removed."""
    net = trace(trained, torch.from_numpy(digits.train_x[:2]))
    search = EndPointSearch(
        net, torch.from_numpy(digits.train_x[:600]), torch.from_numpy(digits.train_x[600:900]), CostMeter()
    )
    targets = {"C1": ModeTarget("C1", None, {}), "C2": ModeTarget("C2", "C1", {"conv1": 8, "fc1": 16})}
    table, states = row_table(net, search.find(targets, lambda _: None))
    chunks = ordered(table, states["C1"], states["C2"]).chunks
    return net, table, states, chunks


@pytest.fixture(scope="module")
def samples(digits):
    return Samples(digits.test_x[:120], digits.test_y[:120])


@pytest.fixture(scope="module")
def certificate(plan, samples):
    net, table, states, chunks = plan
    return certify(net, table, states["C1"], chunks, samples, cost=CostMeter(), search=Search())


def test_what_is_proved_is_never_found_wrong(plan, samples, certificate, digits):
    net, table, states, chunks = plan
    assert certificate.why_not == ""
    assert 20 < certificate.torn.sum() <= certificate.whole.sum() <= certificate.ends.sum()
    assert not (certificate.torn & ~certificate.survived_torn).any()
    assert not (certificate.whole & ~certificate.survived_whole).any()
    moved = [name for layer in table.layers for name in (layer.weight, layer.bias)]
    constants = {name: t.numpy() for name, t in net.module.float().state_dict().items() if name not in moved}
    live = export_live(net.module.float(), torch.from_numpy(digits.train_x[:2]), moved, {})
    proved = Evaluator(Session(live, constants), Samples(samples.inputs, samples.labels))
    for seed in range(3):
        shuffled = shuffle(chunks, seed)
        shuffled.check(table, states["C1"], states["C2"], "shuffled")
        for way, begin in ((shuffled, states["C1"]), (shuffled.reversed(), states["C2"])):
            positions = list(range(0, len(way), 9))
            for answers in proved.along(table, begin, way, positions):
                assert answers.right[certificate.whole].all()
            for answers in proved.torn(table, begin, way, random_tears(table, way, 12, seed)):
                assert answers.right[certificate.torn].all()


def shuffle(chunks, seed):
    """The same writes, those of each stage in another order."""
    from dataclasses import replace

    generator = np.random.default_rng(seed)
    ends = np.cumsum([len(run.rows) for run in chunks.runs(0, len(chunks))])
    order = np.concatenate([generator.permutation(np.arange(b, e)) for b, e in zip([0, *ends[:-1]], ends, strict=True)])
    return replace(chunks, **{name: getattr(chunks, name)[order] for name in ("layer", "row", "old", "new")})


def test_stages_lose_nothing_where_nobody_reads(certificate, plan):
    net, table, states, chunks = plan
    removing = [stage for stage in certificate.stages if stage.rows in (8, 16)]
    assert [stage.layer for stage in removing] == ["conv1", "fc1"]
    before = {stage.begin + stage.rows: stage for stage in certificate.stages}
    for stage in removing:
        assert (stage.whole, stage.torn) == (before[stage.begin].whole, before[stage.begin].torn)
    assert [len(one.rows) for one in stages_of(net, table, states["C1"], chunks)] == [
        stage.rows for stage in certificate.stages
    ]


def test_the_entry_counts_and_bounds(certificate):
    entry = certificate.entry()
    assert (entry.samples, entry.proved_torn) == (120, certificate.torn.sum())
    assert entry.stages[0] == 0
    assert entry.bound_torn < entry.proved_torn / entry.samples <= entry.survived_torn / entry.samples


def test_dividing_proves_more_and_writes_the_same(plan, samples, digits):
    net = plan[0]
    cost = CostMeter()
    inputs = torch.from_numpy(digits.train_x)
    targets = {"C1": ModeTarget("C1", None, {}), "C2": ModeTarget("C2", "C1", {"conv1": 13})}
    table, states = row_table(net, EndPointSearch(net, inputs[:600], inputs[600:900], cost).find(targets, print))
    chunks = ordered(table, states["C1"], states["C2"]).chunks
    certificate = certify(net, table, states["C1"], chunks, samples, cost=cost)
    chosen_on = Samples(digits.train_x[900:1000], digits.train_y[900:1000])
    divided = divide(net, table, states["C1"], chunks, chosen_on, cost=cost, most=8)
    divided.chunks.check(table, states["C1"], states["C2"], "divided")
    assert len(divided.chunks) == len(chunks)
    assert len(divided.proved) == 1 + len(divided.stops) > 1
    assert list(divided.proved) == sorted(divided.proved)
    again = certify(net, table, states["C1"], divided.chunks, samples, cost=cost, stops=divided.stops)
    assert again.torn.sum() > certificate.torn.sum()
    assert (again.ends | ~again.torn).all()
    assert len(again.stages) == len(certificate.stages) + len(divided.stops)


def test_more_effort_proves_more(plan, samples, certificate):
    net, table, states, chunks = plan
    few = samples.take(40)
    interval, tight = (
        certify(net, table, states["C1"], chunks, few, cost=CostMeter(), effort=effort)
        for effort in ("interval", "tight")
    )
    assert interval.torn.sum() < certificate.torn[:40].sum() <= tight.torn.sum()
    assert interval.survived_torn is None


class Softened(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.softmax(self.b(torch.relu(self.a(x))), 1))


class Scaled(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.b(torch.relu(self.a(x)))
        return self.c(torch.add(hidden, torch.relu(hidden), alpha=2))


class Centred(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.b(torch.relu(self.a(x)))
        return self.c(hidden - hidden.mean(0, keepdim=True))


class Twice(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x))))) + self.c(torch.relu(self.b(x[:, :5])))


@pytest.mark.parametrize(
    ("kind", "layer", "words"),
    [(Softened, "a", "'softmax'"), (Scaled, "a", "'add'"), (Centred, "a", "'mean'"), (Twice, "b", "found 2 calls")],
)
def test_what_cannot_be_bounded_says_why(kind, layer, words):
    net, inputs = network(kind, 6)
    with pytest.raises(CannotBound, match=words):
        Tail(net, layer, written(net, layer, [0]).before, inputs)


class Normalised(Softened):
    """Weights of its own that nobody writes, an operation before the layer and one behind it without a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(6), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.softmax(self.behind(self.b(torch.relu(self.a(self.before(x))))), 1))


@pytest.mark.parametrize("kind", [Softened, Scaled, Normalised])
def test_what_cannot_be_bounded_is_searched_all_the_same(kind):
    net, inputs = network(kind, 6)
    rows = [0, 2, 3]
    writes = written(net, "a", rows, 3.0)
    tail = Tail(net, "a", writes.before, inputs, bounded=False)
    torch.testing.assert_close(tail.values[tail.output], answered(net, writes.before, inputs))
    labels = tail.values[tail.output].argmax(1)
    least = torch.stack([
        margin(answered(net, state(writes, whole, None), inputs), labels)
        for whole in product((False, True), repeat=len(rows))
    ]).amin(0)  # fmt: skip
    searched = worst_margin(tail, writes, labels, torn=False, search=Search(targets=2), cost=CostMeter())
    assert (searched >= least - ROUNDING).all()
    assert (searched - least).median() < ROUNDING


def test_a_network_that_mixes_samples_is_not_searched_either():
    net, inputs = network(Centred, 6)
    with pytest.raises(CannotBound, match="'mean' behind layer a: mixes samples"):
        Tail(net, "a", written(net, "a", [0]).before, inputs, bounded=False)


def test_without_a_bound_a_certificate_says_what_the_search_left(plan, samples, certificate):
    net, table, states, chunks = plan
    few = samples.take(40)
    found = certify(net, table, states["C1"], chunks, few, cost=CostMeter(), effort="none", search=Search())
    assert "no proof was tried" in found.why_not
    assert not found.whole.any()
    assert not found.torn.any()
    # What is proved is not searched where there is a proof, and is never found wrong where there is none.
    assert (found.ends == certificate.ends[:40]).all()
    assert (found.survived_torn >= certificate.torn[:40]).all()
    assert (found.survived_whole >= found.survived_torn).all()
    entry = found.entry()
    assert (entry.proved_whole, entry.bound_torn, entry.samples) == (0, 0, 40)
    assert entry.survived_torn == int(found.survived_torn.sum()) > 0
    assert len(entry.stages) == len(certificate.stages)


def test_a_transition_that_cannot_be_bounded_proves_nothing(plan, samples):
    net, table, states, chunks = plan
    stops = range(len(chunks))
    assert len(stages := list(stages_of(net, table, states["C1"], chunks, stops))) == len(chunks)
    assert {len(one.rows) for one in stages} == {1}
    empty = ordered(table, states["C1"], states["C1"]).chunks
    found = certify(net, table, states["C1"], empty, samples, cost=CostMeter())
    assert "writes nothing" in found.entry().why_not
    assert (found.entry().proved_whole, found.entry().bound_torn, found.entry().stages) == (0, 0, ())
