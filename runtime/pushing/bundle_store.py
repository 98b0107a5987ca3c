"""Where pushed bundles lie: ``bundles/ID`` of the state directory, and ``bundles/.ID.partial`` while one comes in.

Which of them is at work the journal says, and nothing else: what it does not name may be removed at any time.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from runtime.memory.files import Files

FOLDER: Final = "bundles"
KEPT_FREE_BYTES: Final = 4 << 20
"""That a push leaves on the disk: the journal, its reserve and the service's own files take a tenth of it."""


class BundleStore:
    """The pushed bundles of one device. Whoever uses it holds the state directory.

    Args:
        state: The state directory.
        files: How to get at the disk.

    Attributes:
        folder: Where they lie.
        files: How to get at the disk.
    """

    def __init__(self, state: Path, files: Files) -> None:
        self.folder = state / FOLDER
        self.files = files
        self._state = state

    def path(self, bundle: str) -> Path:
        """Directory of a bundle that came in whole.

        Args:
            bundle: Its id.
        """
        return self.folder / bundle

    def partial(self, bundle: str) -> Path:
        """Directory of one that comes in."""
        return self.folder / f".{bundle}.partial"

    def has(self, bundle: str) -> bool:
        """Whether a bundle is there, whole."""
        return self.path(bundle).is_dir()

    def free_bytes(self) -> int:
        """Bytes that may still be written.

        Raises:
            OSError: The disk does not say.
        """
        return self.files.free_bytes(self._state) - KEPT_FREE_BYTES

    def prepare(self, bundle: str) -> Path:
        """An empty directory for a bundle that is to come in.

        Raises:
            OSError: It cannot be made.
        """
        self.files.remove_tree(self.partial(bundle))
        self.files.make_folder(self.folder)
        self.files.make_folder(self.partial(bundle))
        # The folder's own name must last before anything in it counts.
        self.files.sync_folder(self._state)
        return self.partial(bundle)

    def admit(self, bundle: str) -> Path:
        """Give a bundle that came in whole its name, over a power cut too.

        Raises:
            OSError: The disk did not take it.
        """
        self.files.remove_tree(self.path(bundle))
        self.files.rename(self.partial(bundle), self.path(bundle))
        self.files.sync_folder(self.folder)
        return self.path(bundle)

    def discard(self, bundle: str) -> None:
        """Remove a bundle that came in, in part or whole; what cannot be removed takes room until the next start."""
        for path in (self.partial(bundle), self.path(bundle)):
            with suppress(OSError):
                self.files.remove_tree(path)

    def tidy(self, *kept: str) -> None:
        """Remove all but some bundles; what cannot be removed takes room and does no harm.

        Args:
            kept: Their ids.
        """
        with suppress(OSError):
            for found in self.folder.iterdir():
                if found.name not in kept:
                    with suppress(OSError):
                        self.files.remove_tree(found)
