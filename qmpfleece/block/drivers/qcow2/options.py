"""Options of the driver. Source: QAPI ``BlockdevOptionsQcow2``."""

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict

from qmpfleece.qapi.alternate import Alternate
from qmpfleece.qapi.blockdev import BlockdevOptions, BlockdevRef, BlockdevRefOrNull
from qmpfleece.qapi.model import Int64, Model

#: QAPI ``Qcow2OverlapCheckMode``.
OverlapCheckMode: TypeAlias = Literal["none", "constant", "cached", "all"]


#: QAPI ``BlockdevDriver``: formats that an image may say that its backing file has.
BlockdevDriver: TypeAlias = Literal[
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "bochs",
    "cloop",
    "compress",
    "copy-before-write",
    "copy-on-read",
    "dmg",
    "file",
    "snapshot-access",
    "ftp",
    "ftps",
    "gluster",
    "host_cdrom",
    "host_device",
    "http",
    "https",
    "iscsi",
    "luks",
    "nbd",
    "nfs",
    "null-aio",
    "null-co",
    "nvme",
    "parallels",
    "preallocate",
    "qcow",
    "qcow2",
    "qed",
    "quorum",
    "raw",
    "rbd",
    "replication",
    "ssh",
    "throttle",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
    "vvfat",
]
CipherAlgorithm: TypeAlias = Literal[
    "aes-128", "aes-192", "aes-256", "des", "3des", "cast5-128", "serpent-128", "serpent-192",
    "serpent-256", "twofish-128", "twofish-192", "twofish-256",
]  # fmt: skip
HashAlgorithm: TypeAlias = Literal[
    "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"
]


class Qcow2OverlapCheckFlags(Model):
    """QAPI ``Qcow2OverlapCheckFlags``: a template, and exceptions from it."""

    model_config = ConfigDict(frozen=True)

    template: OverlapCheckMode | None = None
    main_header: bool | None = None
    active_l1: bool | None = None
    active_l2: bool | None = None
    refcount_table: bool | None = None
    refcount_block: bool | None = None
    snapshot_table: bool | None = None
    inactive_l1: bool | None = None
    inactive_l2: bool | None = None
    bitmap_directory: bool | None = None


class BlockdevQcow2Encryption(Model):
    """QAPI ``BlockdevQcow2Encryption``; images are not decrypted, so it is refused."""

    model_config = ConfigDict(frozen=True)

    format: Literal["aes", "luks"]
    key_secret: str | None = None


class QCryptoBlockCreateOptions(Model):
    """QAPI ``QCryptoBlockCreateOptions``; images are not encrypted, so it is refused."""

    model_config = ConfigDict(frozen=True)

    format: Literal["qcow", "luks"]
    key_secret: str | None = None
    cipher_alg: CipherAlgorithm | None = None
    cipher_mode: Literal["ecb", "cbc", "xts", "ctr"] | None = None
    ivgen_alg: Literal["plain", "plain64", "essiv"] | None = None
    ivgen_hash_alg: HashAlgorithm | None = None
    hash_alg: HashAlgorithm | None = None
    iter_time: Int64 | None = None


class Qcow2Options(BlockdevOptions):
    """QAPI ``BlockdevOptionsQcow2``.

    Attributes:
        file: The image file.
        backing: What to use instead of the backing file that the image names; null: none.
        lazy_refcounts: Postpone refcount updates; by default as the image says.
        pass_discard_request: Whether guest discards reach the file; default: if the node
            was opened with ``discard: unmap``.
        pass_discard_snapshot: The same for deleted snapshots; default true.
        pass_discard_other: The same for what is given up otherwise; default false.
        overlap_check: Against what metadata writes are checked; default ``cached``.
        cache_size: Bytes of both caches together.
        l2_cache_size: Bytes of the L2 cache.
        l2_cache_entry_size: Bytes of the part of an L2 table that is cached as one.
        refcount_cache_size: Bytes of the refcount block cache.
        cache_clean_interval: Tables unused for so many seconds are dropped from the caches; 0:
            they stay; default 600.
        encrypt: Refused.
        data_file: Where the guest's data lies, for images with an external data file.
    """

    driver: Literal["qcow2"]
    file: BlockdevRef
    backing: BlockdevRefOrNull | None = None
    lazy_refcounts: bool | None = None
    pass_discard_request: bool | None = None
    pass_discard_snapshot: bool | None = None
    pass_discard_other: bool | None = None
    overlap_check: (
        Annotated[OverlapCheckMode | Qcow2OverlapCheckFlags, Alternate("Qcow2OverlapChecks")]
        | None
    ) = None
    cache_size: Int64 | None = None
    l2_cache_size: Int64 | None = None
    l2_cache_entry_size: Int64 | None = None
    refcount_cache_size: Int64 | None = None
    cache_clean_interval: Int64 | None = None
    encrypt: BlockdevQcow2Encryption | None = None
    data_file: BlockdevRef | None = None
