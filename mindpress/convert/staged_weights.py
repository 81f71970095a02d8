"""The weight files of a workspace, layer by layer, with a journal of those that are written."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mindpress import __version__
from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.journal import Journal, fingerprint
from mindpress.checkpoint.manifest import file_digest
from mindpress.checkpoint.mapped import MappedCheckpoint
from mindpress.checkpoint.staging import StagedFolder
from mindpress.convert.output import TensorFiles, one_thread_each
from mindpress.convert.planning import ConversionPlan
from mindpress.convert.weights import WeightFiles
from mindpress.errors import NumericError
from mindpress.events import Advanced, Listener, Note, Started

WEIGHTS = Path("triton_models/weights")


class StagedWeights:
    """Writes what `plan` says; `request` is all else that the workspace depends on.

    A layer is left out whose files are all there as an earlier run has written them.
    """

    def __init__(self, plan: ConversionPlan, request: object, staged: StagedFolder) -> None:
        self._plan, self._staged = plan, staged
        self._folder = staged.path / WEIGHTS
        self._done: dict[str, str] = {}
        shards = {info.file for info in plan.folder.checkpoint.tensors.values()}
        files = [plan.folder.folder / "config.json", *plan.copied, *shards]
        parts = (__version__, plan.config, plan.dialect.version, plan.cache)
        self._journal = Journal(staged.aside, fingerprint(*parts, request, files=files))

    def resume(self, listener: Listener) -> None:
        """Find what an earlier run has written; refuses one with other settings."""
        saved = self._journal.load()
        if saved is None:
            self._staged.clear_output()
            return
        try:
            written = {str(name): str(digest) for name, digest in saved["files"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._journal.damaged(error) from None
        whole = {name: written[name] for name in self._plan.files if name in written}
        self._done = {n: digest for n, digest in whole.items() if self._is_whole(n, digest)}
        listener(Note(f"going on after {len(self._done)} files of an interrupted run"))
        if len(self._done) < len(written):
            lost = len(written) - len(self._done)
            listener(Note(f"{lost} of its files are damaged and written again", "warning"))

    def write(self, listener: Listener) -> dict[str, str]:
        """Write every file that is not there; the SHA-256 of all of them by name. ResourceError,
        and what `WeightFiles` raises.
        """
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return self._write(listener)
        except NumericError:
            self._staged.clear()  # of no use: the model has to change first
            raise

    def _write(self, listener: Listener) -> dict[str, str]:
        layers = self._plan.config.layers
        listener(Started("convert", layers))
        checkpoint = MappedCheckpoint(self._plan.folder.folder)
        tensors = WeightFiles(replace(self._plan.folder, checkpoint=checkpoint), self._plan.config)
        with one_thread_each(), TensorFiles(self._folder) as output:
            output.digests.update(self._done)
            if not self._has(None):
                for name, tensor in tensors.outer():
                    output.write(name, tensor)
                    checkpoint.release()
            for layer in range(layers):
                if self._has(layer):
                    listener(Advanced(layer + 1, "done in an earlier run"))
                    continue
                for name, tensor in tensors.layer(layer):
                    output.write(name, tensor)
                checkpoint.release()
                self._save(output.digests)
                listener(Advanced(layer + 1))
        self._save(output.digests)
        return output.digests

    def _save(self, digests: Mapping[str, str]) -> None:
        """Files need not be on the disk yet: their hashes are compared when a run goes on. What is
        still being written is in the next one.
        """
        with disk_errors(self._staged.aside):
            self._journal.save({"files": dict(digests)})

    def _has(self, layer: int | None) -> bool:
        return all(name in self._done for name in self._plan.files if _layer_of(name) == layer)

    def _is_whole(self, name: str, digest: str) -> bool:
        file = self._folder / name
        return file.is_file() and file_digest(file) == digest


def _layer_of(name: str) -> int | None:
    """`layers.3.ffn_norm.weight` is of layer 3; the embedding of none."""
    first, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if first == "layers" else None
