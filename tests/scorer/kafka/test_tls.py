"""Certificates: renewed files count from the next connection on, useless ones are named, and nothing is asked for."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from scorer.config import ConfigError, Kafka
from scorer.kafka.tls import Context
from tests.services.authority import Authority, Certificate


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def greeter(authority: Authority) -> AsyncIterator[int]:
    """A server that tells each client the common name in its certificate; its port."""
    mine = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.cafile)
    context.load_cert_chain(mine.cert, mine.key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert")
        writer.write(dict(pair for (pair,) in shown["subject"])["commonName"].encode())
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def name_seen(port: int, context: ssl.SSLContext) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    name = (await reader.read()).decode()
    writer.close()
    return name


def config(authority: Authority, certificate: Certificate) -> Kafka:
    return Kafka(protocol="SSL", cafile=authority.cafile, certfile=certificate.cert, keyfile=certificate.key)


def replace(certificate: Certificate, newer: Certificate) -> None:
    for old, new in zip(certificate, newer, strict=True):
        shutil.copyfile(new, old)
        os.utime(old, ns=(0, old.stat().st_mtime_ns + 1_000))


async def test_a_renewed_certificate_is_shown_from_the_next_connection_on(authority: Authority) -> None:
    first = authority.issue("first")
    context = Context.of(config(authority, first))
    async with greeter(authority) as port:
        assert await name_seen(port, context) == "first"
        replace(first, authority.issue("second"))
        assert await name_seen(port, context) == "second"


async def test_files_that_are_being_written_leave_those_from_before(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    first = authority.issue("first")
    context = Context.of(config(authority, first))
    async with greeter(authority) as port:
        good = first.cert.read_bytes()
        first.cert.write_bytes(b"half a certificate")
        assert await name_seen(port, context) == "first"
        assert "cannot be used" in caplog.text
        first.cert.write_bytes(good)
        assert await name_seen(port, context) == "first"


async def test_a_server_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    context = Context.of(config(stranger, authority.issue("first")))
    async with greeter(authority) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await name_seen(port, context)


@pytest.mark.parametrize("useless", ["missing", "no certificate", "another's key", "passphrase"])
def test_files_that_are_no_use_are_named(authority: Authority, useless: str) -> None:
    certificate = authority.issue("client")
    match useless:
        case "missing":
            certificate.key.unlink()
        case "no certificate":
            certificate.cert.write_text("no certificate")
        case "another's key":
            shutil.copyfile(authority.issue("other").key, certificate.key)
        case "passphrase":
            key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
            certificate.key.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"secret"),
                )
            )
    with pytest.raises(ConfigError, match=r"client\.crt, .*client\.key\. They must be PEM"):
        Context.of(config(authority, certificate))


def test_a_cafile_that_is_no_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pem"):
        Context.of(Kafka(protocol="SSL", cafile=tmp_path / "nothing.pem"))
