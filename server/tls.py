"""The self-signed certificate for https, and its private key."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import socket
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..files import atomic_write, user_folder
from .guard.hosts import own_names

log = logging.getLogger(__name__)

DAYS = 397  # of validity; browsers refuse certificates with more
RENEWED = datetime.timedelta(days=7)  # how long before its end a certificate is renewed


def self_signed() -> tuple[Path, Path]:
    """Return the PEM files of a certificate for this computer's names and addresses, and its key.

    They are kept in the user's data folder, so that browsers warn only once. New ones are made when
    they expire, when the names change, and, with a warning in the log, when they are damaged.

    Raises:
        ImportError: cryptography is not installed.
        StorageError: others may read the kept key, or the folder cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    # Reuse the kept files while they are valid
    folder = user_folder("data") / "https"
    certificate, key = paths = folder / "certificate.pem", folder / "key.pem"
    now, names = datetime.datetime.now(datetime.UTC), _alternative_names()
    try:
        kept = _read(certificate, key)
        if kept and kept.not_valid_after_utc > now + RENEWED and names == _names_of(kept):
            return paths
    except ValueError as error:
        log.warning("%s: damaged (%s); a new one is made", folder, error)

    # Make new ones
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "voxtral-onnx on this computer")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS - 1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )

    # Write them for their owner alone
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror or error})") from error
    secret = private.private_bytes(encoding, form, serialization.NoEncryption())
    atomic_write(key, secret, mode=0o600)
    atomic_write(certificate, made.public_bytes(encoding), mode=0o600)
    return paths


def _read(certificate: Path, key: Path) -> Any:
    """Return the kept certificate; None where there is none.

    Raises:
        StorageError: others may read or change its key, or the files cannot be read.
        ValueError: the files are not a certificate and its key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        mode = key.stat().st_mode
        if os.name == "posix" and mode & 0o077:
            raise StorageError(
                f"{key}: others may read or change this private key (mode {mode & 0o777:04o}, "
                f"expected 0600); run: chmod 600 '{key}'\n"
                "  or remove it, if somebody else may have it: serve then makes a new one"
            )
        kept = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except FileNotFoundError:
        return None
    except TypeError as error:  # a key with a password
        raise ValueError(str(error)) from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{key.parent}: cannot be read ({error.strerror or error})") from error
    if kept.public_key() != private.public_key():
        raise ValueError("the certificate belongs to another key")
    return kept


def _names_of(certificate: Any) -> list[Any]:
    from cryptography import x509

    try:
        return list(
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except x509.ExtensionNotFound as error:
        raise ValueError(str(error)) from error


def _alternative_names() -> list[Any]:
    """Return the names and addresses by which browsers may reach this computer."""
    from cryptography import x509

    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        found = []
    addresses = {str(info[4][0]).partition("%")[0] for info in found} | {"127.0.0.1", "::1"}
    return [
        *map(x509.DNSName, own_names()),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in sorted(addresses)),
    ]
