"""The certificate of https, and its key."""

from __future__ import annotations

import platformdirs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from voxtral_onnx.errors import StorageError
from voxtral_onnx.server.guard.hosts import own_names
from voxtral_onnx.server.tls import self_signed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name: tmp_path / name)
    return tmp_path / "voxtral-onnx" / "https"


def test_it_is_made_once_for_this_computer(folder):
    certificate, key = self_signed()
    made = certificate.read_bytes(), key.read_bytes()
    assert (certificate.parent, key.parent) == (folder, folder)
    assert [path.stat().st_mode & 0o777 for path in (certificate, key)] == [0o600, 0o600]
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "key.pem"]
    self_signed()
    assert (certificate.read_bytes(), key.read_bytes()) == made
    names = x509.load_pem_x509_certificate(made[0]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == own_names()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o610])
def test_a_key_that_others_may_read_is_refused(folder, mode):
    _, key = self_signed()
    key.chmod(mode)
    before = key.read_bytes()
    with pytest.raises(StorageError, match=f"mode {mode:04o}, expected 0600.*; run: chmod 600 '"):
        self_signed()
    assert key.read_bytes() == before


@pytest.mark.parametrize("name", ["certificate.pem", "key.pem"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"M", b"N", 1),
        lambda content: b"\xff" * 100,
        lambda content: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_damaged_is_made_anew_and_said(folder, name, damage, caplog):
    self_signed()
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    check_pair(*self_signed())
    assert f"{folder}: damaged" in caplog.text and "a new one is made" in caplog.text


def test_a_certificate_of_another_key_is_made_anew(folder, caplog):
    certificate, key = self_signed()
    other = key.read_bytes()
    certificate.unlink()
    self_signed()
    key.write_bytes(other)
    check_pair(*self_signed())
    assert "belongs to another key" in caplog.text


def test_a_folder_that_cannot_be(folder):
    folder.parent.mkdir()
    folder.write_text("a file")
    with pytest.raises(StorageError, match="https"):
        self_signed()


def check_pair(certificate, key):
    kept = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert kept.public_key() == load_pem_private_key(key.read_bytes(), None).public_key()
    assert key.stat().st_mode & 0o777 == 0o600
