"""Archives: reading .deb files without dpkg; unpacking .deb, .tar.* and .zip with checked paths."""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

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

SUFFIXES = (".deb", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")

COMPLETE = "whole"  # the file that marks a completely unpacked temporary folder


def is_archive(path: Path) -> bool:
    """Return whether a file has the name of an archive that `unpack` reads."""
    return path.name.lower().endswith(SUFFIXES)


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
        ValueError: For a damaged archive, and for one with a file that leads outside `target`
            (that file is not written).
    """
    with damage_named(path.name):
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                _unpack_zip(archive, path.name, target, wanted)
        elif path.name.endswith(".deb"):
            with _open_deb_tar(*deb_member(path, "data.tar")) as tar:
                _unpack_tar(tar, path.name, target, wanted)
        else:
            with tarfile.open(path, "r:*") as tar:
                _unpack_tar(tar, path.name, target, wanted)


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


def _unpack_tar(
    tar: tarfile.TarFile, name: str, target: Path, wanted: Callable[[str], bool]
) -> None:
    for member in tqdm(tar, f"reading {name}", unit=" files", delay=10):
        tar.members = []  # otherwise they are kept: a gigabyte for the million of Common Voice
        if not member.isfile():
            continue
        try:
            safe = tarfile.data_filter(member, str(target))
        except tarfile.FilterError as error:
            raise _outside(name, member.name) from error
        if wanted(safe.name):
            tar.extract(safe, target, set_attrs=False, filter="data")

    # Read to the end of the stream, where its checksum is.
    while tar.fileobj.read(1 << 20):
        pass


def _unpack_zip(
    archive: zipfile.ZipFile, name: str, target: Path, wanted: Callable[[str], bool]
) -> None:
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        has_drive = ":" in path.parts[0]
        if path.is_absolute() or ".." in path.parts or has_drive:
            raise _outside(name, member.filename)
        if not member.is_dir() and wanted(member.filename):
            archive.extract(member, target)


def _outside(archive: str, member: str) -> ValueError:
    return ValueError(
        f"refused {archive}: its member {member!r} leads outside the folder it is unpacked into"
    )
