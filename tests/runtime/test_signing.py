"""Keys, signatures, and what a device that pinned a key refuses."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import BundleError, KeyFileError, Untrusted
from runtime.plan import bundle as bundles
from runtime.plan import signing
from runtime.plan.bundle_files import MANIFEST, SIGNATURE, check_target
from runtime.plan.release import sign
from runtime.plan.signing import MAX_KEY_FILE_BYTES, PrivateKey, PublicKey
from runtime.plan.trust import Trust, pin
from runtime.reporting.inspection import summary
from runtime.walking.net import open_bundle
from tests.runtime import edwards
from tests.runtime.bundles import content, write_bundle
from tests.runtime.damage import change, flip, refused, relative, snapshot

RFC_8032 = (  # section 7.1: seed, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
        "55141438e7a100b",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc"
        "027beceea1ec40a",
    ),
)
KEY = PrivateKey(bytes(range(32)))
OTHER = PrivateKey(bytes(range(1, 33)))
TRUST = Trust((KEY.public,))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    plan = write_bundle(tmp_path_factory.mktemp("sound") / "plan")
    sign(plan, KEY, 3)
    return plan


@pytest.fixture
def plan(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "plan"))


def pinned(trust=TRUST):
    return lambda path: bundles.read(path, trust)


def untrusted(plan, *words, trust=TRUST):
    refused(plan, *words, error=Untrusted, read=pinned(trust))


# Signatures


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_the_standard(seed, public, message, signature):
    key = PrivateKey(bytes.fromhex(seed))
    assert key.public == PublicKey(bytes.fromhex(public))
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert edwards.sign(key.raw, bytes.fromhex(message)).hex() == signature


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_integers_come_to_the_same_keys_and_signatures(seed, message):
    key = PrivateKey(seed)
    assert key.public.raw == edwards.public(seed)
    assert key.sign(message) == edwards.sign(seed, message)
    assert key.public.verifies(key.sign(message), message)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=100), st.data())
def test_no_bit_of_message_signature_or_key_may_differ(message, data):
    signature = KEY.sign(message)
    parts = [bytearray(message), bytearray(signature), bytearray(KEY.public.raw)]
    part = parts[data.draw(st.integers(0, 2))]
    part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed, made, raw = map(bytes, parts)
    assert not PublicKey(raw).verifies(made, changed)


@settings(deadline=None)
@given(st.binary(max_size=130), st.binary(max_size=50))
def test_bytes_that_nobody_signed_verify_for_nobody(signature, message):
    assert not KEY.public.verifies(signature, message)


def test_a_signature_cannot_be_made_into_another_one():
    message = b"plan"
    made = KEY.sign(message)
    scalar = int.from_bytes(made[32:], "little")
    assert not KEY.public.verifies(made[:32] + (scalar + edwards.ORDER).to_bytes(32, "little"), message)


def test_secrets_are_not_shown():
    assert KEY.raw.hex() not in repr(KEY)
    assert repr(KEY.raw) not in repr(KEY)


# Key files


def write(folder, key=KEY):
    private, public = folder / "a.key", folder / "a.pub"
    signing.write_pair(private, public, key)
    return private, public


def test_a_pair_is_read_back(tmp_path):
    private, public = write(tmp_path, key := signing.generate())
    assert signing.load_private(private) == key
    assert signing.load_public(public) == key.public
    assert signing.generate() != key


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_private_half_is_its_owners_alone(tmp_path, umask):
    before = os.umask(umask)
    try:
        private, _ = write(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600 & ~umask


@pytest.mark.parametrize("name", ["a.key", "a.pub"])
@pytest.mark.parametrize("there", ["file", "link", "dangling"])
def test_what_stands_there_is_never_overwritten(tmp_path, name, there):
    if there == "file":
        (tmp_path / name).write_text("precious")
    else:
        (tmp_path / name).symlink_to("other")
        if there == "link":
            (tmp_path / "other").write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(KeyFileError, match=rf"{name}: found a file, expected none; a key is never overwritten"):
        write(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_both_halves_are_written_or_none(tmp_path, monkeypatch, number, error):
    calls = []

    def fails(handle):
        calls.append(handle)
        if len(calls) == number:
            raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else KeyFileError):
        write(tmp_path)
    assert relative(tmp_path) == []


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KeyFileError, match=r"nowhere/a\.key: cannot be written: No such file"):
        write(tmp_path / "nowhere")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644])
def test_a_private_key_that_others_can_read_is_refused(tmp_path, mode):
    private, _ = write(tmp_path)
    private.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"a\.key: found mode {mode:04o}, expected 0600"):
        signing.load_private(private)


def private_pem(key, passphrase=None):
    hidden = pem.BestAvailableEncryption(passphrase) if passphrase else pem.NoEncryption()
    return key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, hidden)


def public_pem(key):
    return key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)


ED448 = ed448.Ed448PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = Ed25519PrivateKey.from_private_bytes(KEY.raw)
GARBAGE = (b"", b"\0" * 32, b"\xff" * 100, b"-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n", KEY.raw)


def key_file(folder, raw):
    path = folder / "key"
    path.touch(0o600)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        *((raw, "") for raw in GARBAGE),
        (private_pem(ED448), "Ed448PrivateKey"),
        (private_pem(RSA), "RSAPrivateKey"),
        (private_pem(ED25519, b"secret"), "a key under a passphrase"),
        (public_pem(ED25519), "what should be a public key"),
        (b"x" * (MAX_KEY_FILE_BYTES + 1), f"more than {MAX_KEY_FILE_BYTES} bytes"),
    ],
    ids=range(10),
)
def test_what_is_no_private_key_is_refused(tmp_path, raw, found):
    with pytest.raises(KeyFileError, match=rf"key: found {found}.*expected.*; make a pair with"):
        signing.load_private(key_file(tmp_path, raw))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        *((raw, "") for raw in GARBAGE),
        (public_pem(ED448), "Ed448PublicKey"),
        (public_pem(RSA), "RSAPublicKey"),
        (private_pem(ED25519), "what should be a private key"),
        (b"x" * (MAX_KEY_FILE_BYTES + 1), f"more than {MAX_KEY_FILE_BYTES} bytes"),
    ],
    ids=range(9),
)
def test_what_is_no_public_key_is_refused(tmp_path, raw, found):
    with pytest.raises(KeyFileError, match=rf"key: found {found}.*expected.*; make a pair with") as caught:
        signing.load_public(key_file(tmp_path, raw))
    for line in raw.decode("latin-1").splitlines():
        assert len(line) < 10 or line.startswith("-----") or line not in str(caught.value), "quotes a secret"


@settings(max_examples=50, deadline=None)
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_key_or_refused_in_words(tmp_path_factory, raw):
    path = key_file(tmp_path_factory.mktemp("any"), raw)
    for load in (signing.load_private, signing.load_public):
        with pytest.raises(KeyFileError, match=r"expected .*; make a pair"):
            load(path)


@pytest.mark.parametrize("load", [signing.load_private, signing.load_public])
def test_a_key_is_a_regular_file(tmp_path, load):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="pipe: found no regular file, expected a key"):
        load(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match=r"nothing: cannot be read: No such file"):
        load(tmp_path / "nothing")
    with pytest.raises(KeyFileError, match=r"cannot be read: Is a directory|found no regular file"):
        load(tmp_path)


def spki(raw):
    """A public key in PEM, whatever the 32 bytes are."""
    der = bytes.fromhex("302a300506032b6570032100") + raw
    return pem.load_der_public_key(der).public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)


def test_there_are_seven_points_that_say_nothing_and_their_signs():
    assert {int.from_bytes(raw, "little") & (1 << 255) - 1 for raw in edwards.small_order()} == signing._SMALL_ORDER


@pytest.mark.parametrize("raw", sorted(edwards.small_order()), ids=bytes.hex)
def test_a_key_under_which_anything_verifies_is_refused(tmp_path, raw):
    with pytest.raises(KeyFileError, match="found a key under which anything verifies"):
        signing.load_public(key_file(tmp_path, spki(raw)))


# Bundles


def test_a_signed_bundle_is_read_and_says_by_whom(plan):
    bundle = bundles.read(plan, TRUST)
    assert (bundle.signed, bundle.signed_by, bundle.manifest.release) == (True, KEY.public.id, 3)
    assert bundle.files[SIGNATURE] == KEY.sign((plan / MANIFEST).read_bytes())
    assert bundle.size_bytes == sum(path.stat().st_size for path in plan.rglob("*") if path.is_file())


def test_any_of_the_pinned_keys_will_do(plan):
    assert bundles.read(plan, Trust((OTHER.public, KEY.public))).signed_by == KEY.public.id


def test_an_unsigned_bundle_is_refused(plan):
    (plan / SIGNATURE).unlink()
    untrusted(plan, f"found no signature, expected one by {KEY.public.id[:16]}; sign it with `geoshift bundle sign`")


@pytest.mark.parametrize("keys", [(OTHER,), (OTHER, PrivateKey(b"\5" * 32))])
def test_a_bundle_that_somebody_else_signed_is_refused(plan, keys):
    trust = Trust(tuple(key.public for key in keys))
    untrusted(plan, *(key.public.id[:16] for key in keys), "not by a pinned key", trust=trust)


@pytest.mark.parametrize("place", [0, 0.3, 0.7, 1])
@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_a_flipped_bit_of_manifest_or_signature_is_refused(plan, name, place):
    flip(plan / name, place)
    untrusted(plan, "found a signature that is not of these bytes", "copy the bundle again")


def test_the_signature_is_over_bytes_and_not_over_their_meaning(plan):
    data = json.loads((plan / MANIFEST).read_bytes())
    (plan / MANIFEST).write_text(json.dumps(data))
    untrusted(plan, "found a signature that is not of these bytes")


def test_another_bundles_signature_is_refused(plan, tmp_path):
    other = write_bundle(tmp_path / "other")
    sign(other, KEY)
    shutil.copy(other / SIGNATURE, plan / SIGNATURE)
    untrusted(plan, "found a signature that is not of these bytes")


def test_the_rest_of_the_bundle_stands_under_the_signature(plan):
    flip(plan / "base.safetensors")
    refused(plan, "base.safetensors: found", "the file is damaged", read=pinned())
    change(plan, "files", "base.safetensors", "bytes", to=1)
    untrusted(plan, "found a signature that is not of these bytes")


@pytest.mark.parametrize("raw", [b"", b"not JSON", b"[" * 100_000, b'{"schema": "geoshift.plan/2"}'])
def test_a_strangers_manifest_is_not_even_parsed(plan, monkeypatch, raw):
    (plan / MANIFEST).write_bytes(raw)
    monkeypatch.setattr(bundles.schema, "decode", lambda *_: pytest.fail("parsed"))
    untrusted(plan, "found a signature that is not of these bytes")


@pytest.mark.parametrize(("committed", "taken"), [(0, True), (2, True), (3, True), (4, False), (10**9, False)])
def test_the_release_never_falls(plan, committed, taken):
    trust = Trust((KEY.public,), committed)
    if taken:
        assert bundles.read(plan, trust).manifest.release == 3
        return
    untrusted(
        plan,
        f"plan.json: release: found 3, expected at least {committed}, which this device has committed",
        trust=trust,
    )


def test_a_raised_release_needs_a_new_signature(plan):
    raw = (plan / MANIFEST).read_bytes()
    (plan / MANIFEST).write_bytes(raw.replace(b'"release": 3', b'"release": 9'))
    untrusted(plan, "found a signature that is not of these bytes", trust=Trust((KEY.public,), 4))


@pytest.mark.parametrize("size", [0, 63, 65, 1 << 40])
@pytest.mark.parametrize("trust", [None, TRUST])
def test_a_signature_has_64_bytes(plan, size, trust):
    os.truncate(plan / SIGNATURE, size)
    refused(plan, f"plan.sig: found {size} bytes, expected", "64; copy the bundle again", read=pinned(trust))


@pytest.mark.parametrize("trust", [None, TRUST])
@pytest.mark.parametrize("instead", ["link", "dangling", "directory", "pipe"])
def test_a_signature_is_a_regular_file(plan, instead, trust):
    target = plan / SIGNATURE
    target.rename(plan.parent / "elsewhere")
    if instead == "directory":
        target.mkdir()
    elif instead == "pipe":
        os.mkfifo(target)
    else:
        target.symlink_to(plan.parent / ("elsewhere" if instead == "link" else "nowhere"))
    refused(plan, "plan.sig: found no regular file, expected one", read=pinned(trust))


def test_a_manifest_cannot_list_the_signature(plan):
    change(plan, "files", to=lambda files: {**files, SIGNATURE: files["graph.onnx"]})
    refused(plan, "plan.json: files: found path 'plan.sig', expected one inside the bundle")


@pytest.mark.parametrize("by", [None, KEY, OTHER])
def test_without_a_pinned_key_nothing_is_checked_and_the_signature_is_listed(plan, by):
    if by is None:
        (plan / SIGNATURE).unlink()
    else:
        (plan / SIGNATURE).write_bytes(by.sign(b"something else"))
    bundle = bundles.read(plan)
    assert (bundle.signed, bundle.signed_by) == (by is not None, None)
    assert summary(bundle)["signed"] == bundle.signed


def test_a_signed_bundle_may_be_replaced_and_loses_the_signature(plan):
    check_target(plan, replace=True)
    bundles.write(plan, *content(), replace=True)
    assert not bundles.read(plan).signed


def test_trust_in_nobody_is_not_trust(tmp_path):
    with pytest.raises(Untrusted, match="keys: found none, expected at least one"):
        Trust(())
    assert pin([]) is None
    _, public = write(tmp_path)
    assert pin([public], 7) == Trust((KEY.public,), 7)


# A device


def test_a_device_goes_up_and_never_down(plan, tmp_path):
    _, public = write(tmp_path)
    state = tmp_path / "state"
    open_bundle(plan, state=state, pinned=[public]).close()
    for release, taken in ((2, False), (3, True), (5, True), (4, False)):
        sign(plan, KEY, release)
        if taken:
            open_bundle(plan, state=state, pinned=[public], migrate=True).close()
            continue
        with pytest.raises(Untrusted, match=f"release: found {release}, expected at least"):
            open_bundle(plan, state=state, pinned=[public], migrate=True)
        open_bundle(plan, state=state, migrate=True).close()  # the refused one gave the directory back


def test_a_device_that_pinned_a_key_opens_nothing_else(plan, tmp_path):
    _, public = write(tmp_path)
    (plan / SIGNATURE).unlink()
    with pytest.raises(Untrusted, match="found no signature"):
        open_bundle(plan, state=tmp_path / "state", pinned=[public])
    assert not (tmp_path / "state").exists()


# Signing


def test_signing_leaves_nothing_else_behind(plan):
    before = snapshot(plan)
    sign(plan, OTHER)
    after = snapshot(plan)
    assert {name for name in after if after[name] != before.get(name)} == {SIGNATURE}
    assert relative(plan.parent) == sorted(["plan", *(f"plan/{name}" for name in relative(plan))])
    assert bundles.read(plan, Trust((OTHER.public,))).manifest.release == 3


def test_a_bundle_called_by_a_link_is_signed_where_it_lies(plan):
    (plan.parent / "current").symlink_to("plan")
    sign(plan.parent / "current", OTHER, 8)
    assert bundles.read(plan, Trust((OTHER.public,))).manifest.release == 8


@pytest.mark.parametrize("release", [0, -1])
def test_a_release_below_one_is_refused(plan, release):
    refused(plan, "release", "Expected `int` >= 1", read=lambda path: sign(path, KEY, release))


def test_nothing_unsound_is_signed(plan):
    flip(plan / "graph.onnx")
    refused(plan, "graph.onnx: found", read=lambda path: sign(path, KEY))


def operations(monkeypatch, number=0, error=None, done=False):
    """Count the file operations of signing, and let one of them fail before or after it is done."""
    seen = []

    def guard(name):
        real = getattr(os, name)

        def guarded(*args, **kwargs):
            seen.append(name)
            fails = len(seen) == number
            if fails and not done:
                raise error
            result = real(*args, **kwargs)
            if fails:
                raise error
            return result

        monkeypatch.setattr(os, name, guarded)

    for name in ("fsync", "replace", "unlink"):
        guard(name)
    return seen


def test_an_interrupted_signing_leaves_no_wrong_signature(sound, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        seen = operations(patch)
        sign(shutil.copytree(sound, tmp_path / "count"), OTHER, 9)
        total = len(seen)
    assert total > 5
    for number in range(1, total + 1):
        for error in (OSError(5, "Input/output error"), KeyboardInterrupt()):
            for done in (False, True):
                plan = Path(shutil.copytree(sound, tmp_path / f"{number}-{type(error).__name__}-{done}" / "plan"))
                with pytest.MonkeyPatch.context() as patch:
                    operations(patch, number, error, done)
                    with suppress(BundleError, KeyboardInterrupt):
                        sign(plan, OTHER, 9)
                bundle = bundles.read(plan)
                signers = {
                    key for key in (KEY, OTHER) if bundle.signed and key.public.verifies(
                        bundle.files[SIGNATURE], bundle.files[MANIFEST]
                    )
                }  # fmt: skip
                assert len(signers) == bundle.signed
                assert bundle.manifest.release in (3, 9)


# The command line


def geoshift(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "geoshift", "bundle", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip


def test_the_commands_make_sign_and_verify(plan):
    folder = plan.parent
    made = json.loads(geoshift("keygen", "-o", "mine", "--json", cwd=folder).stdout)
    assert made == {"id": signing.load_public(folder / "mine.pub").id, "private": "mine.key", "public": "mine.pub"}
    assert stat.S_IMODE((folder / "mine.key").stat().st_mode) == 0o600
    again = geoshift("keygen", "-o", "mine", cwd=folder)
    assert (again.returncode, "never overwritten" in again.stderr) == (1, True)
    signed = json.loads(geoshift("sign", "plan", "--key", "mine.key", "--release", 5, "--json", cwd=folder).stdout)
    assert (signed["release"], signed["signed_by"]) == (5, made["id"])
    done = geoshift("verify", "plan", "--key", "mine.pub", "--release", 5, "--json", cwd=folder)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, **signed})


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("verify", "plan"), 2, "--key"),
        (("verify", "plan", "--key", "b.pub"), 1, "not by a pinned key"),
        (("verify", "plan", "--key", "a.pub", "--release", "4"), 1, "expected at least 4"),
        (("verify", "plan", "--key", "a.key"), 1, "expected a public Ed25519 key"),
        (("verify", "nowhere", "--key", "a.pub"), 1, "found no directory"),
        (("sign", "plan", "--key", "a.pub"), 1, "found mode 0644"),
        (("sign", "plan", "--key", "a.key", "--release", "0"), 2, "release"),
    ],
)
def test_failures_have_a_sentence_and_a_status(plan, arguments, status, words):
    folder = plan.parent
    write(folder)
    signing.write_pair(folder / "b.key", folder / "b.pub", OTHER)
    before = snapshot(folder)
    done = geoshift(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert snapshot(folder) == before


def test_a_refusal_is_json_too(plan):
    write(plan.parent)
    (plan / SIGNATURE).unlink()
    done = geoshift("verify", "plan", "--key", "a.pub", "--json", cwd=plan.parent)
    data = json.loads(done.stdout)
    assert (done.returncode, data["ok"]) == (1, False)
    assert re.match(r"plan: found no signature, expected one by [0-9a-f]{16}; sign it", data["reason"])


def test_openssl_signs_and_verifies_the_same(plan):
    """Another program reads the same keys and makes the same signatures; where it is missing, so is this half."""
    private, public = write(plan.parent)
    program = shutil.which("openssl")
    if program is None:
        assert edwards.sign(KEY.raw, (plan / MANIFEST).read_bytes()) == (plan / SIGNATURE).read_bytes()
        return
    files = ["-rawin", "-in", plan / MANIFEST]
    verify = [program, "pkeyutl", "-verify", "-pubin", "-inkey", public, *files, "-sigfile", plan / SIGNATURE]
    subprocess.run(verify, check=True, capture_output=True)
    made = plan.parent / "made"
    subprocess.run([program, "pkeyutl", "-sign", "-inkey", private, *files, "-out", made], check=True)
    assert made.read_bytes() == (plan / SIGNATURE).read_bytes()
