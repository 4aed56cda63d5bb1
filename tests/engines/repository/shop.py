"""A repository of engines with something to bring to it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engines.manifest import Artifact
from engines.repository.keys import TRUSTED_FILE, SigningKey, generate
from engines.repository.store import Repository
from engines.tensorrt.plan import Settings
from tests.engines import small_engines, small_models


class Shop:
    """A repository with keys, and folders to bring to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key: SigningKey = generate(folder / "keys")
        self.repository = Repository(folder / "engines", folder / "keys" / TRUSTED_FILE)
        self._made = 0

    def model(self, **verdict: bool) -> str:
        """Bring in a model of its own, made a day after the one before."""
        self._made += 1
        model = small_models.artifact(value_scale=self._made)
        manifest = msgspec.structs.replace(model.manifest, created=f"2022-01-{self._made:02}T00:00:00Z")
        source = small_models.write(self.folder / f"model{self._made}", Artifact(manifest, model.onnx))
        return self._brought(source, verdict)

    def engine(self, plan: bytes = b"a plan", **verdict: bool) -> str:
        self._made += 1
        source = small_engines.write(self.folder / "built", Settings(buckets=(1, 8 + self._made)), plan=plan)
        return self._brought(source, verdict)

    def _brought(self, source: Path, verdict: dict[str, bool]) -> str:
        if verdict:
            small_engines.judged(source, **verdict)
        return self.repository.add(source)
