"""Archives: reading .deb files without dpkg; unpacking .deb, .tar.* and .zip with checked paths."""

import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa
from tqdm import tqdm

from ...files import atomic_folder, disk_errors

# A .deb is an ar archive of debian-binary, control.tar.* and data.tar.*
AR_MAGIC = b"!<arch>\n"
AR_HEADER_SIZE = 60
AR_HEADER_END = b"`\n"

DAMAGE = (  # what the unpackers raise for a damaged archive
    EOFError,
    lzma.LZMAError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    pa.ArrowException,
)

SUFFIXES = (".deb", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")

OTHER_SUFFIXES = (".7z", ".rar", ".zst", ".gz", ".xz", ".bz2")  # of archives to unpack oneself

# What an archive may unpack to: sound and text become some four times as large at most.
SMALL = 200 << 20  # bytes that any archive may unpack to
LARGEST_CONTROL = 1 << 20  # bytes of a .deb's control file, which usually has some hundreds
MOST_TIMES = 20  # times the archive's own size, where that is more

COMPLETE = "whole"  # the file that marks a completely unpacked temporary folder


def is_archive(path: Path) -> bool:
    """Return whether a file has the name of an archive that `unpack` reads."""
    return path.name.lower().endswith(SUFFIXES)


def is_other_archive(path: Path) -> bool:
    """Return whether a file has the name of an archive that `unpack` does not read."""
    return path.name.lower().endswith(OTHER_SUFFIXES) and not is_archive(path)


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Raise one ValueError for a damaged archive, whichever unpacker reports it in the block.

    Args:
        name: The file that the message names.
    """
    try:
        yield
    except (*DAMAGE, OSError) as error:
        is_of_the_disk = isinstance(error, OSError) and error.errno is not None
        if is_of_the_disk:
            raise
        raise ValueError(f"{name} is damaged or cut off ({error}): download it again") from error


# ---- .deb files


def deb_member(path: Path, prefix: str) -> tuple[str, bytes]:
    """Return name and content of the first member of a .deb whose name starts with `prefix`.

    Raises:
        ValueError: If the file is no .deb, or ends too early.
    """
    with open(path, "rb") as file:
        if file.read(len(AR_MAGIC)) != AR_MAGIC:
            raise ValueError(f"{path.name} is no .deb file: download it again")

        while True:
            header = file.read(AR_HEADER_SIZE)
            name = header[:16].decode("ascii", "replace").rstrip(" /")
            size_field = header[48:58].strip()
            if not size_field.isdigit() or header[58:] != AR_HEADER_END:
                break  # also at the end of the file
            size = int(size_field)
            if name.startswith(prefix):
                content = file.read(size)
                if len(content) < size:
                    break
                return name, content
            file.seek(size + size % 2, io.SEEK_CUR)  # members start at even offsets
    raise ValueError(f"{path.name} is damaged or cut off (no complete {prefix}): download it again")


def deb_fields(path: Path) -> dict[str, str]:
    """Return the fields of a .deb's control file: Package, Version and others.

    Raises:
        ValueError: For a damaged file.
    """
    with damage_named(path.name), _open_deb_tar(*deb_member(path, "control.tar")) as tar:
        for member in tar:
            if PurePosixPath(member.name).name == "control":
                if member.size > LARGEST_CONTROL:
                    raise EOFError(f"its control file has {member.size} bytes")
                lines = tar.extractfile(member).read().decode("utf-8").splitlines()
                break
        else:
            raise EOFError("no control file")
    fields = [line for line in lines if not line.startswith(" ") and ": " in line]
    return dict(line.split(": ", 1) for line in fields)


def _open_deb_tar(name: str, content: bytes) -> tarfile.TarFile:
    """Return an open tar of a .deb: xz, gz, bz2, zst or plain."""
    if name.endswith(".zst"):  # as in Ubuntu; pyarrow, which datasets needs anyway, can read it
        stream = pa.CompressedInputStream(pa.BufferReader(content), "zstd")
        return tarfile.open(fileobj=stream, mode="r|")
    return tarfile.open(fileobj=io.BytesIO(content), mode="r:*")


# ---- unpacking


def unpack(path: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the regular files that are wanted; links are left out.

    Args:
        path: The archive.
        target: The folder to unpack into.
        wanted: Whether a file is wanted, given its path in the archive.

    Raises:
        ValueError: For a damaged archive, for one with a file that leads outside `target` (that
            file is not written), and for one that unpacks to far more than its own size.
    """
    budget = Budget(path)
    with damage_named(path.name):
        name = path.name.lower()
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                _unpack_zip(archive, budget, target, wanted)
        elif name.endswith(".deb"):
            with _open_deb_tar(*deb_member(path, "data.tar")) as tar:
                _unpack_tar(tar, budget, target, wanted)
        else:
            with tarfile.open(path, "r:*") as tar:
                _unpack_tar(tar, budget, target, wanted)


def unpack_once(path: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack into a temporary folder, completely or not at all, unless that was done before.

    Args:
        path: The archive.
        target: The folder.
        wanted: As for `unpack`.

    Raises:
        ValueError: As `unpack` does.
        OSError: If the disk is full. The message names TMPDIR.
    """
    # The folder alone proves nothing: a cleaner of temporary files may have emptied it.
    if (target / COMPLETE).is_file():
        return
    with atomic_folder(target) as partial, disk_errors(target.parent, "TMPDIR"):
        partial.mkdir()
        unpack(path, partial, wanted)
        (partial / COMPLETE).touch()


class Budget:
    """The bytes that may still be unpacked of an archive, or of a parquet file with sounds.

    Args:
        archive: The file.
    """

    def __init__(self, archive: Path):
        self.name = archive.name
        self.most = max(SMALL, MOST_TIMES * archive.stat().st_size)
        self.left = self.most

    def spend(self, size: int) -> None:
        """Count a file; ValueError where that is too much."""
        self.left -= size
        if self.left < 0:
            raise ValueError(
                f"refused {self.name}: it unpacks to more than {self.most >> 20} MB, "
                "far more than speech would: is it what you think it is? Unpack it yourself"
            )


def _unpack_tar(
    tar: tarfile.TarFile, budget: Budget, target: Path, wanted: Callable[[str], bool]
) -> None:
    for member in tqdm(tar, f"reading {budget.name}", unit=" files", delay=10):
        tar.members = []  # otherwise they are kept: a gigabyte for the million of Common Voice
        if not member.isfile():
            continue
        try:
            safe = tarfile.data_filter(member, str(target))
        except tarfile.FilterError as error:
            raise _outside(budget.name, member.name) from error
        if wanted(safe.name):
            budget.spend(safe.size)
            tar.extract(safe, target, set_attrs=False, filter="data")

    # Read to the end of the stream, where its checksum is.
    while tar.fileobj.read(1 << 20):
        pass


def _unpack_zip(
    archive: zipfile.ZipFile, budget: Budget, target: Path, wanted: Callable[[str], bool]
) -> None:
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if member.is_dir() or not path.name:
            continue
        has_drive = ":" in path.parts[0]
        if path.is_absolute() or ".." in path.parts or has_drive:
            raise _outside(budget.name, member.filename)
        if wanted(str(path)):
            budget.spend(member.file_size)
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with _open_in_zip(archive, member, budget.name) as packed, open(place, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)


def _open_in_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> IO[bytes]:
    """Return an open member of a zip; ValueError for one that Python cannot unpack."""
    try:
        return archive.open(member)
    except (RuntimeError, NotImplementedError) as error:  # a password; a rare compression
        raise ValueError(f"{name} cannot be unpacked here ({error}): unpack it yourself") from error


def _outside(archive: str, member: str) -> ValueError:
    return ValueError(
        f"refused {archive}: its member {member!r} leads outside the folder it is unpacked into"
    )
