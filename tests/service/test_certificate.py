"""The certificate: made once, good at any date, worth nothing without its key."""

import datetime
import hashlib
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from runtime.private_files import PrivateFileError
from runtime.service.certificate import ensure


def test_it_is_made_once_and_its_files_are_its_owner_s_alone(tmp_path):
    first, second = ensure(tmp_path / "service"), ensure(tmp_path / "service")
    assert first == second
    for path in (first.certificate, first.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.key.parent.stat().st_mode) == 0o700


def test_it_holds_on_a_board_whose_clock_is_in_1970_and_in_9999(tmp_path):
    made = ensure(tmp_path)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    assert certificate.not_valid_before_utc == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert certificate.not_valid_after_utc.year == 9999
    assert hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() == made.sha256


def test_it_is_no_authority_over_others(tmp_path):
    certificate = x509.load_pem_x509_certificate(ensure(tmp_path).certificate.read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("name", ["certificate.pem", "key.pem"])
def test_a_damaged_one_is_named_and_not_replaced(tmp_path, name):
    ensure(tmp_path)
    (tmp_path / name).write_bytes(b"-----BEGIN NOTHING-----")
    with pytest.raises(PrivateFileError, match="pair every client again"):
        ensure(tmp_path)
    assert (tmp_path / name).read_bytes() == b"-----BEGIN NOTHING-----"


def test_a_key_of_another_certificate_is_noticed(tmp_path):
    one, other = ensure(tmp_path / "one"), ensure(tmp_path / "other")
    one.key.write_bytes(other.key.read_bytes())
    with pytest.raises(PrivateFileError):
        ensure(tmp_path / "one")


def test_a_key_that_others_may_read_is_refused(tmp_path):
    ensure(tmp_path).key.chmod(0o640)
    with pytest.raises(PrivateFileError, match="0640"):
        ensure(tmp_path)


def test_a_power_cut_between_key_and_certificate_leaves_neither_for_good(tmp_path):
    made = ensure(tmp_path)
    made.certificate.unlink()
    assert ensure(tmp_path).sha256 != made.sha256
