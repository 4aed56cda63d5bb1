"""TLS to the brokers: what is trusted, who we are, and files that are renewed while the service runs."""

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from scorer.config import ConfigError, Kafka

log = logging.getLogger(__name__)


class Context(ssl.SSLContext):
    """Checks the broker's certificate and name; shows ours, if there is one.

    A client keeps its context for life, and certificates are renewed more often than services are restarted: files that
    were replaced are read again for the next connection. If they cannot be used, what was read before stays.
    """

    _config: Kafka
    _seen: Sequence[int]

    @classmethod
    def of(cls, config: Kafka) -> Self:
        """Read the files. Raises ConfigError when they cannot be used."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._config = config
        if config.cafile is None:
            context.load_default_certs()
        try:
            context._seen = context._stamps()
            context._read()
        except OSError as error:
            names = ", ".join(str(path) for path in context._files() if path is not None)
            raise ConfigError(
                f"Kafka's certificate files cannot be used ({error.strerror or error}): {names}. They must be PEM, "
                "readable, the key without a passphrase and of the certificate beside it."
            ) from error
        return context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See SSLContext; asyncio and uvloop call it once for each connection."""
        try:
            if (stamps := self._stamps()) != self._seen:
                self._read()
                self._seen = stamps
                log.info("The certificates were renewed.")
        except OSError as error:
            log.warning("The renewed certificates cannot be used, and those from before are kept: %s", error)
        return super().wrap_bio(*args, **kwargs)

    def _read(self) -> None:
        cafile, certfile, keyfile = self._files()
        if cafile is not None:
            self.load_verify_locations(cafile)
        if certfile is not None:
            self.load_cert_chain(certfile, keyfile, password="")  # or OpenSSL would ask the terminal, and wait

    def _files(self) -> tuple[Path | None, Path | None, Path | None]:
        return self._config.cafile, self._config.certfile, self._config.keyfile

    def _stamps(self) -> list[int]:
        return [path.stat().st_mtime_ns for path in self._files() if path is not None]
