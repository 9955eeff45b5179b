"""Packages: finding the files of a game's corpus, installed, in an archive or by apt-get."""

import subprocess
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ...files import (
    atomic_folder,
    cache_dir,
    disk_errors,
    file_sha256,
    one_at_a_time,
    read_json,
    set_aside,
    write_json,
)
from .apt import apt_download
from .archives import deb_fields, is_archive, unpack


@dataclass(frozen=True)
class Pinned:
    """A package as it was tested.

    Attributes:
        version: Of the package.
        sha256: Of Debian's .deb.
        size: Bytes of Debian's .deb.
    """

    version: str
    sha256: str
    size: int


PACKAGES: dict[str, dict[str, Pinned]] = {  # corpus -> its packages
    "fillets": {
        "fillets-ng-data": Pinned(
            "1.0.1-1.1",
            "25de89afd8b1adf7bcace8290248a6a22c89cd42300317e69000e162c032cf84",
            70_633_484,
        ),
        "fillets-ng-data-cs": Pinned(
            "1.0.1-1.1",
            "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14",
            39_042_172,
        ),
        "fillets-ng-data-nl": Pinned(
            "1.0.1-1.1",
            "afb4443fda9ab507dee578b75be857d121718a1cd6017a474f30e0eb13dc9d10",
            32_593_580,
        ),
    },
    "stamps": {
        "tuxpaint-stamps-default": Pinned(
            "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            160_880_444,
        )
    },
    "festvox": {
        "festvox-ru": Pinned(
            "0.5+dfsg-6",
            "21ef3f0f2978ecf2e2eddb367cb0ff4a72572196d28dc69feb84f4177af5e6c4",
            178_728_512,
        ),
    },
    "asterisk": {
        "asterisk-core-sounds-ru": Pinned(
            "1.6.1-1",
            "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
            25_592,
        ),
        "asterisk-core-sounds-ru-wav": Pinned(
            "1.6.1-1",
            "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
            18_788_860,
        ),
        "asterisk-core-sounds-fr": Pinned(
            "1.6.1-1",
            "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
            23_152,
        ),
        "asterisk-core-sounds-fr-wav": Pinned(
            "1.6.1-1",
            "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
            18_516_060,
        ),
        "asterisk-core-sounds-it": Pinned(
            "1.6.1-1",
            "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
            23_972,
        ),
        "asterisk-core-sounds-it-wav": Pinned(
            "1.6.1-1",
            "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
            18_262_124,
        ),
        "asterisk-core-sounds-es": Pinned(
            "1.6.1-1",
            "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
            22_012,
        ),
        "asterisk-core-sounds-es-wav": Pinned(
            "1.6.1-1",
            "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
            23_767_256,
        ),
    },
}

INSTALLED = {  # where Debian puts the data
    "fillets": Path("/usr/share/games/fillets-ng"),
    "stamps": Path("/usr/share/tuxpaint/stamps"),
    "festvox": Path("/usr/share/festival/voices/russian/msu_ru_nsh_clunits"),
    "asterisk": Path("/usr/share/asterisk"),
}

NEEDED = {  # folders that the data has
    "fillets": ("script", "sound"),
    "stamps": ("animals",),
    "festvox": ("etc", "wav"),
    "asterisk": ("sounds",),
}

SPOKEN = {  # patterns of a sound file in a language, and of its texts where they may be missing
    "fillets": ("sound/*/{0}/*.ogg",),
    "stamps": ("**/*_desc_{0}.ogg",),
    "festvox": ("wav/{0}_*.wav",),
    "asterisk": ("sounds/{0}_*/*.wav", "../doc/asterisk-core-sounds-{0}/core-sounds-{0}.txt*"),
}

# Pictures, fonts and music are not unpacked.
KEPT_FILES = (".lua", ".ogg", ".txt", ".txt.gz", ".wav", "txt.done.data")

ABOUT = "package.json"  # in an unpacked folder: origin, versions, number and bytes of the files

FROM_APT = "apt-get download"  # a Package's source


@dataclass(frozen=True)
class Package:
    """The files of a corpus and their origin.

    Attributes:
        folder: Where they are; None for a corpus without files.
        source: "folder", "archive", "installed package", "apt-get download" or "made up".
        versions: Package, or file name of the archive -> version, sha256 and tested (whether it is
            the tested one).
    """

    folder: Path | None
    source: str
    versions: dict[str, dict] = field(default_factory=dict)


def download_size(corpus: str) -> int:
    """Return the bytes to download for a corpus whose packages are not installed (toy: 0)."""
    return sum(package.size for package in PACKAGES.get(corpus, {}).values())


def find_package(
    corpus: str, source: str | Path | None = None, language: str | None = None
) -> Package:
    """Return the files of a corpus.

    They are taken from `source`. Without one: installed, else unpacked by an earlier call, else
    downloaded by apt-get.

    Args:
        corpus: One of PACKAGES.
        source: The folder of the data, a .deb, a folder with several, a .tar.* or a .zip.
        language: Code of a language in which the data must have sound.

    Raises:
        FileNotFoundError: If the source does not exist, or lacks the data.
        ValueError: For a damaged or unexpected archive.
        OSError: If there is no apt-get, it does not know the package, the network fails or the disk
            is full. Each message says what to do.
    """
    if source is not None:
        return _from_source(corpus, Path(source).expanduser(), language)

    installed = find_data(corpus, INSTALLED[corpus], language)
    if installed:
        return Package(installed, "installed package", _installed_versions(corpus))

    found = _find_unpacked(corpus, language)
    if found:
        return found

    with one_at_a_time(_store() / corpus), tempfile.TemporaryDirectory() as name:
        found = _find_unpacked(corpus, language)  # by the process that was waited for
        if found:
            return found
        downloads = Path(name)
        with disk_errors(downloads, "TMPDIR"):
            debs = apt_download(corpus, list(PACKAGES[corpus]), download_size(corpus), downloads)
        return _unpack_all(corpus, debs, language, FROM_APT)


def _store() -> Path:
    """Return the folder of the unpacked packages."""
    return cache_dir() / "packages"


def _find_unpacked(corpus: str, language: str | None) -> Package | None:
    """Return what an earlier call has unpacked, or None; damaged folders count as absent."""
    for folder in sorted(_store().glob(f"{corpus}-*")):
        if ".damaged-" in folder.name:
            continue
        about = _about(folder)
        data = find_data(corpus, folder, language) if about else None
        if about and data:
            return Package(data, about["source"], about["versions"])
    return None


def find_data(corpus: str, folder: Path, language: str | None) -> Path | None:
    """Return the folder of a corpus's data at or below a folder, or None.

    Args:
        corpus: One of PACKAGES.
        folder: Where the search starts.
        language: Code of a language in which the data must have sound; None: in any language.
    """
    if not folder.is_dir():
        return None
    first = NEEDED[corpus][0]
    patterns = [pattern.format(language or "*") for pattern in SPOKEN[corpus]]
    for mark in (folder / first, *sorted(folder.rglob(first))):
        place = mark.parent
        has_folders = all((place / needed).is_dir() for needed in NEEDED[corpus])
        if has_folders and all(any(place.glob(pattern)) for pattern in patterns):
            return place
    return None


# ---- from a source


def _from_source(corpus: str, source: Path, language: str | None) -> Package:
    """Return the files of a corpus in a folder or in archives."""
    if not source.exists():
        raise FileNotFoundError(f"no file or folder {source} (given as source of {corpus})")

    debs = sorted(source.glob("*.deb"))
    if source.is_dir() and not debs:
        data = find_data(corpus, source, language)
        if data is None:
            raise FileNotFoundError(_incomplete(corpus, str(source), language))
        return Package(data, "folder")

    if source.is_dir():
        archives = [deb for deb in debs if deb_fields(deb).get("Package") in PACKAGES[corpus]]
        if not archives:
            names = ", ".join(PACKAGES[corpus])
            raise FileNotFoundError(f"{source} has none of the packages {names}")
    elif is_archive(source):
        archives = [source]
    else:
        raise ValueError(
            f"{source.name} is not an archive that can be read: give a folder, .deb, .tar.gz or "
            ".zip"
        )
    with one_at_a_time(_store() / corpus):
        return _unpack_all(corpus, archives, language, "archive")


def _incomplete(corpus: str, place: str, language: str | None) -> str:
    """Return the message for a place without the data."""
    sound = f" with sound in {language!r}" if language else ""
    folders = "the folders " if len(NEEDED[corpus]) > 1 else "the folder "
    wanted = [folders + " and ".join(NEEDED[corpus])]
    wanted += [pattern.format(language or "LL") for pattern in SPOKEN[corpus]]
    return (
        f"{place} has no {corpus} data{sound} (looked for {', for '.join(wanted)}): it comes with "
        f"{', '.join(PACKAGES[corpus])}"
    )


# ---- unpacked archives


def _unpack_all(corpus: str, archives: list[Path], language: str | None, source: str) -> Package:
    """Unpack archives into packages/<corpus>-<hash>, completely or not at all."""
    versions = {}
    for path in archives:
        name, about = describe(corpus, path, trusted=source == FROM_APT)
        versions[name] = about
    key = "-".join(sorted(about["sha256"][:8] for about in versions.values()))
    folder = _store() / f"{corpus}-{key}"

    names = ", ".join(path.name for path in archives)
    incomplete = FileNotFoundError(_incomplete(corpus, names, language))
    about = _about(folder)
    if not about:
        with atomic_folder(folder) as partial:
            partial.mkdir()
            for path in tqdm(archives, f"unpacking {corpus}", unit=" archives"):
                unpack(path, partial, lambda name: name.endswith(KEPT_FILES))
            if not find_data(corpus, partial, language):
                raise incomplete
            about = {"source": source, "versions": versions, "files": _count(partial)}
            write_json(partial / ABOUT, about)

    data = find_data(corpus, folder, language)
    if data is None:
        raise incomplete
    return Package(data, about["source"], about["versions"])


def _about(folder: Path) -> dict:
    """Return what package.json says of an unpacked folder; {} where that is absent or damaged."""
    if not (folder / ABOUT).is_file():
        return {}
    about = read_json(folder / ABOUT)
    if not about:
        return {}  # package.json was damaged, and is set aside
    if not {"source", "versions"} <= set(about):
        set_aside(folder, f"its {ABOUT} lacks source or versions")
        return {}
    stated = about.get("files")  # not stated by earlier versions
    found = _count(folder)
    if stated and found != stated:
        set_aside(
            folder,
            f"it has {found['number']} files with {found['bytes']} bytes, not "
            f"{stated['number']} with {stated['bytes']}",
        )
        return {}
    return about


def _count(folder: Path) -> dict[str, int]:
    """Return the number of files of the corpus in a folder, and their bytes."""
    kept = [path for path in folder.rglob("*") if str(path).endswith(KEPT_FILES)]
    sizes = [path.stat().st_size for path in kept]
    return {"number": len(sizes), "bytes": sum(sizes)}


# ---- versions


def describe(corpus: str, path: Path, trusted: bool) -> tuple[str, dict]:
    """Return what identifies an archive; warn if it is not the tested one.

    Args:
        corpus: One of PACKAGES.
        path: The archive.
        trusted: Its signature was checked by apt. The tested version with other content is then
            only warned of: Ubuntu builds Debian's packages anew.

    Returns:
        The name of the package (of the file, if it is no .deb), and version, sha256 and tested.

    Raises:
        ValueError: For the tested version with other content, unless `trusted`.
    """
    digest = file_sha256(path)
    if path.suffix != ".deb":
        return path.name, {"version": None, "sha256": digest, "tested": False}

    fields = deb_fields(path)
    name = fields.get("Package", path.name)
    version = fields.get("Version")
    pinned = PACKAGES[corpus].get(name)
    is_tested = False
    if pinned is None:
        _warn(f"{name} {version} was not tested")
    elif version != pinned.version:
        _warn(f"{name} {version} was not tested ({pinned.version} was)")
    elif digest == pinned.sha256:
        is_tested = True
    elif trusted:
        _warn(f"{name} {version} is another build than the one tested (Debian's)")
    else:
        raise ValueError(
            f"refused {path.name}: it says {name} {version}, but its SHA-256 is {digest}, not "
            f"Debian's {pinned.sha256}: let apt-get fetch it (give no source), or unpack it "
            "yourself and give the folder"
        )
    return name, {"version": version, "sha256": digest, "tested": is_tested}


def _warn(what: str) -> None:
    warnings.warn(f"{what}: clips and figures may differ", stacklevel=4)


def _installed_versions(corpus: str) -> dict[str, dict]:
    """Return the versions of the installed packages as dpkg knows them; {} without dpkg."""
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES[corpus]]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return {}

    versions = {}
    for line in result.stdout.splitlines():
        words = line.split()
        if len(words) == 2:  # a package that is not installed has no version
            name, version = words
            tested = version == PACKAGES[corpus][name].version
            versions[name] = {"version": version, "sha256": None, "tested": tested}
    return versions
