"""Devices that plans are pushed to, on the small bundle."""

import hashlib

import msgspec

from runtime.device.device import Device
from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.plan.bundle import CANARY
from runtime.plan.bundle_files import MANIFEST, SIGNATURE
from runtime.plan.graphs import live_session
from runtime.plan.samples import Samples, pack
from runtime.sensing.os_power import Tools
from runtime.walking.net import Net, open_bundle
from tests.runtime.bundles import content, profile
from tests.runtime.devices import Clock
from tests.runtime.nets import PACE

PART = 4096
WORLD = {**PACE, "bank__snap": False}


def written(path, seed=1, release=2, wrong=False, device=None, **model):
    """The small bundle with other weights and a higher release; a wrong one answers its own canary wrong."""
    manifest, files = content(device or profile(**WORLD), seed)
    changed = msgspec.structs.replace(manifest.model, **model) if model else manifest.model
    if wrong:
        files[CANARY] = wrong_canary(files, manifest)
    return bundles.write(path, msgspec.structs.replace(manifest, release=release, model=changed), files, replace=False)


def wrong_canary(files, manifest):
    from runtime.plan.samples import unpack

    samples = unpack(files[CANARY], CANARY, manifest.model.input_shape, len(manifest.labels))
    return pack(Samples(samples.inputs, (samples.labels + 1) % len(manifest.labels)))


def files_of(path):
    """Content of a bundle on disk: manifest, signature, the rest by name."""
    bundle = bundles.read(path)
    rest = {name: raw for name, raw in bundle.files.items() if name not in (MANIFEST, SIGNATURE)}
    return bundle.files[MANIFEST], bundle.files.get(SIGNATURE), rest


def device_at(bundle, state, disk=None, *, policy="in-place", trust=None, clock=None, root=None, **changes):
    """A device with a state directory; it reads what it watches only when it is told to."""
    home = StateDirectory(state, disk)
    net = Net(bundle, profile(**{**WORLD, **changes}), policy, home=home)
    tools = Tools() if root is None else Tools(root=root)
    return Device(net, id="test", state=state, clock=clock or Clock(), watches=False, trust=trust, tools=tools)


def uploaded(device, path, part=PART):
    """Begin a push and send all files; its view."""
    manifest, signature, rest = files_of(path)
    view = device.pushes.begin(manifest, signature, who="tester")
    for name, raw in rest.items():
        for offset in range(0, max(1, len(raw)), part):
            view = device.pushes.take(view.id, name, offset, raw[offset : offset + part])
    return view


def pushed(device, path, *, allow_gap=False):
    """Push a bundle; its view once it is over."""
    view = uploaded(device, path)
    device.pushes.commit(view.id, allow_gap=allow_gap)
    return device.pushes.wait(view.id, 60)


def bundle_id(path):
    return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()


def left(state):
    """What lies in the store of a state directory."""
    return sorted(one.name for one in (state / "bundles").iterdir()) if (state / "bundles").exists() else []


def reopened(path, state, **options):
    """The network that a restart gives."""
    return open_bundle(path, state=state, **options)


def outputs(bundle, x, mode="C1", policy="in-place", **changes):
    """What a bundle answers in a mode, by a session of its own."""
    session = live_session(bundle, 1, profile(**{**WORLD, **changes}), aliased=policy == "persistent")
    return session.run(x, session.bind(bundle.table.tensors(bundle.states[mode])))
