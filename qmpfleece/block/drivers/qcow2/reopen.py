"""Other options for an open image; storing its bitmaps when it becomes read-only, and back.

Source: QEMU 7.2, observed: when an image becomes read-only its persistent bitmaps are stored at
once and stay, read-only; when it becomes writable they are marked in use again.
"""

import sys
from typing import TYPE_CHECKING, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.block.drivers.qcow2 import opening, settings
from qmpfleece.block.drivers.qcow2.bitmaps import Bitmaps
from qmpfleece.block.drivers.qcow2.check import Recount
from qmpfleece.block.drivers.qcow2.layout import Incompatible
from qmpfleece.block.drivers.qcow2.options import Qcow2Options

if TYPE_CHECKING:
    from qmpfleece.block.driver import Reopening
    from qmpfleece.block.drivers.qcow2.image import Image

#: What may change while the image is open.
MUTABLE: Final = frozenset(
    (
        "lazy-refcounts",
        "pass-discard-request",
        "pass-discard-snapshot",
        "pass-discard-other",
        "overlap-check",
        "cache-size",
        "l2-cache-size",
        "l2-cache-entry-size",
        "refcount-cache-size",
        "cache-clean-interval",
        *(f"overlap-check.{name}" for name in ("template", *settings.OVERLAP_FLAGS)),
    )
)


class Reopener:
    """Takes one image through one reopening.

    Args:
        image: The image.
        bitmaps: Its persistent bitmaps.
    """

    def __init__(self, image: "Image", bitmaps: Bitmaps) -> None:
        self._image = image
        self._bitmaps = bitmaps
        self._options: Qcow2Options | None = None
        self._inactive_l2: list[int] = []
        self._unmap = False
        self._was_writable = image.writable
        self._stored = False

    async def prepare(self, change: "Reopening[Qcow2Options]") -> None:
        """Check the options; store what must be stored before the image is read-only.

        Raises:
            QmpError: They are wrong, or that failed.
        """
        image, options = self._image, change.given
        settings.cache_sizes(options, image.header)
        settings.clean_interval(options)
        if options.lazy_refcounts and image.header.version < 3:
            raise QmpError(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
            )
        if options.encrypt is not None:
            raise QmpError(
                "No encryption in image header, but options specified format"
                f" '{options.encrypt.format}'"
            )
        self._options, self._unmap = options, change.options.unmap
        self._inactive_l2 = await opening.inactive_l2(image, options)
        if change.options.read_only:
            await self._settle()
        elif image.writable:
            try:
                await image.journal.write()
            except OSError as error:
                raise QmpError(f"Failed to flush the L2 table cache: {error.strerror}") from error
            if image.lazy and not opening.is_lazy(image.header, options):
                try:
                    await image.header_writer.clear_dirty_bit()
                except OSError as error:
                    text = f"Failed to disable lazy refcounts: {error.strerror}"
                    raise QmpError(text) from error

    async def _settle(self) -> None:
        image = self._image
        await self._bitmaps.store(release=False)
        self._stored = self._was_writable
        if not self._was_writable:
            return
        try:
            await image.journal.settle()
            await image.header_writer.clear_dirty_bit()
        except OSError as error:
            raise QmpError(f"Could not update qcow2 header: {error.strerror}") from error

    def commit(self) -> None:
        """Put the options in force."""
        if self._options is not None:
            # Nothing is dirty as a rule; what another node has written here meanwhile stays,
            # and with it the size of the parts.
            self._image.l2.drop_clean()
            self._image.blocks.drop_clean()
            self._image.refcounts.leave_tail()
            opening.apply_options(self._image, self._options, unmap=self._unmap)
            opening.protect_anew(self._image, self._options, self._inactive_l2)
            self._bitmaps.protect()
            self._image.cleaner.start(settings.clean_interval(self._options))

    async def abort(self) -> None:
        """Go on writing.

        Differs: QEMU leaves the bitmaps as they were stored, read-only.
        """
        if self._stored:
            await self._claim()

    async def finish(self) -> None:
        """Take possession of an image that has become writable.

        Differs: QEMU writes to a dirty one as if all was counted. And bitmaps that stayed
        read-only, as the image could not be written or counted, are tried again, each time, as
        is counting; QEMU leaves them so until the image is closed.
        """
        image = self._image
        due = image.node.readonly_bitmaps or image.uncounted
        if not image.writable or (self._was_writable and not due):
            return
        if not self._was_writable and image.header.incompatible & Incompatible.DIRTY:
            image.uncounted = True
        try:
            await opening.clear_unknown_autoclear(image)
            if image.uncounted:
                # What waits to be given back would be so once more after it was counted.
                await image.journal.settle()
                recount = Recount(image)
                await recount.run(self._bitmaps.entries, self._bitmaps.directory)
        except OSError as error:
            sys.stderr.write(f"Could not update qcow2 header: {error.strerror}\n")
        except QmpError as error:
            # The options are in force: it is as it would be if nobody had looked.
            sys.stderr.write(f"{image.node.name}: {error.desc}\n")
        await self._claim()

    async def _claim(self) -> None:
        if self._image.uncounted:
            return  # they could not be stored: as they are in the file they stay valid
        try:
            await self._bitmaps.reclaim()
        except OSError as error:
            # Source: QEMU says so and leaves them read-only, too.
            sys.stderr.write(
                f"{self._image.node.name}: Failed to make dirty bitmaps writable: Cannot update"
                f" bitmap directory: {error.strerror}\n"
            )
