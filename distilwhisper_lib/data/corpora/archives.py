"""Archives: reading .deb files without dpkg, and unpacking .deb, .tar.* and .zip with every path checked."""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pyarrow as pa
from tqdm import tqdm

from ...files import atomic_folder, disk_errors

AR_MAGIC, AR_HEADER = (
    b"!<arch>\n",
    60,
)  # a .deb is an ar archive: debian-binary, control.tar.*, data.tar.*

DAMAGE = (
    EOFError,
    lzma.LZMAError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    pa.ArrowException,
)

SUFFIXES = (".deb", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


def is_archive(path: Path) -> bool:
    """Return whether the file's name is one of an archive that `unpack` reads."""
    return path.name.lower().endswith(SUFFIXES)


@contextmanager
def damage_named(name: str):
    """Turn what the unpackers raise for a damaged archive into a ValueError that names it."""
    try:
        yield
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the archive
            raise
        raise ValueError(f"{name} is damaged or cut off ({error}): download it again") from error


def deb_member(path: Path, prefix: str) -> tuple[str, bytes]:
    """Return name and content of the first member of a .deb whose name starts with `prefix`.

    Raises ValueError if the file is no .deb, or ends too early.
    """
    with open(path, "rb") as file:
        if file.read(len(AR_MAGIC)) != AR_MAGIC:
            raise ValueError(f"{path.name} is no .deb file: download it again")
        while len(header := file.read(AR_HEADER)) == AR_HEADER:
            name, size = header[:16].decode("ascii", "replace").rstrip(" /"), header[48:58].strip()
            if not size.isdigit() or header[58:60] != b"`\n":
                break
            if name.startswith(prefix):
                content = file.read(int(size))
                if len(content) < int(size):
                    break
                return name, content
            file.seek(int(size) + int(size) % 2, io.SEEK_CUR)  # members start at even offsets
    raise ValueError(f"{path.name} is damaged or cut off (no complete {prefix}): download it again")


def open_tar(name: str, content: bytes) -> tarfile.TarFile:
    """Return an open tar of a .deb: xz, gz, bz2, zst or plain."""
    if name.endswith(".zst"):  # as Ubuntu packs them; datasets brings pyarrow, which can read it
        return tarfile.open(
            fileobj=pa.CompressedInputStream(pa.BufferReader(content), "zstd"), mode="r|"
        )
    return tarfile.open(fileobj=io.BytesIO(content), mode="r:*")


def deb_fields(path: Path) -> dict[str, str]:
    """Return the fields of a .deb's control file: Package, Version, ...; raises ValueError for a damaged one."""
    with damage_named(path.name), open_tar(*deb_member(path, "control.tar")) as tar:
        control = next(
            (member for member in tar if PurePosixPath(member.name).name == "control"), None
        )
        if control is None:
            raise EOFError("no control file")
        lines = tar.extractfile(control).read().decode("utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if not line.startswith(" ") and ": " in line)


def unpack(path: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the regular files with a wanted name from an archive into `target`; links are left out.

    Raises ValueError for a damaged archive, and for one with a file that leads outside `target` (nothing of it
    lands there).
    """
    with damage_named(path.name):
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                _unpack_zip(archive, path.name, target, wanted)
            return
        packed = (
            open_tar(*deb_member(path, "data.tar"))
            if path.name.endswith(".deb")
            else tarfile.open(path, "r:*")
        )
        with packed as tar:
            _unpack_tar(tar, path.name, target, wanted)


def unpack_once(path: Path, target: Path, wanted: Callable[[str], bool]) -> Path:
    """Unpack into the temporary folder `target`, whole or not at all, unless it is there already; returns it.

    Raises OSError where there is no space for it.
    """
    if not (
        target / "whole"
    ).is_file():  # a folder alone may be what a cleaner of temporary files has left of one
        with atomic_folder(target) as partial, disk_errors(target.parent, "TMPDIR"):
            partial.mkdir()
            unpack(path, partial, wanted)
            (partial / "whole").touch()
    return target


def _unpack_tar(
    tar: tarfile.TarFile, name: str, target: Path, wanted: Callable[[str], bool]
) -> None:
    for member in tqdm(tar, f"reading {name}", unit=" files", delay=10):
        tar.members = []  # they are kept otherwise: a gigabyte for Common Voice's million clips
        if not member.isfile():
            continue
        try:
            safe = tarfile.data_filter(member, str(target))
        except tarfile.FilterError as error:
            raise _outside(name, member.name) from error
        if wanted(safe.name):
            tar.extract(safe, target, set_attrs=False, filter="data")
    while tar.fileobj.read(1 << 20):  # to the end of the stream, where its checksum is
        pass


def _unpack_zip(
    archive: zipfile.ZipFile, name: str, target: Path, wanted: Callable[[str], bool]
) -> None:
    for member in archive.infolist():
        inner = PurePosixPath(member.filename.replace("\\", "/"))
        if inner.is_absolute() or ".." in inner.parts or ":" in inner.parts[0]:
            raise _outside(name, member.filename)
        if not member.is_dir() and wanted(member.filename):
            archive.extract(member, target)


def _outside(archive: str, member: str) -> ValueError:
    return ValueError(
        f"refused {archive}: its member {member!r} leads outside the folder it is unpacked into"
    )
