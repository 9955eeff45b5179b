"""Finding a corpus: folders, archives, damaged archives, and a script in the place of apt-get."""

import errno
import gzip
import lzma
import os
import stat
import tarfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from made_corpora import make_deb, make_fillets, make_stamps, tar_bytes, tree

from distilwhisper_lib.data.corpora import archives, packages
from distilwhisper_lib.data.corpora.archives import deb_fields, unpack
from distilwhisper_lib.data.corpora.packages import PACKAGES, Pinned, download_size, find_package
from distilwhisper_lib.data.corpora.registry import ITEMS, MADE_UP
from distilwhisper_lib.files import cache_dir, disk_errors


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "INSTALLED", dict.fromkeys(PACKAGES, tmp_path / "not-installed"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no apt-get, no dpkg


@pytest.fixture
def game(tmp_path):
    """Return the folder with usr/share/games/fillets-ng in it."""
    make_fillets(tmp_path / "game")
    return tmp_path / "game"


def leftovers() -> list[str]:
    names = [path.name for path in (cache_dir() / "packages").glob("*")]
    return [name for name in names if name.endswith(".part") or "download" in name]


def pin(monkeypatch, corpus: str, *debs: Path) -> None:
    """Make these packages the tested ones."""
    pinned = {}
    for deb in debs:
        fields = deb_fields(deb)
        pinned[fields["Package"]] = Pinned(
            fields["Version"], sha256(deb.read_bytes()).hexdigest(), 1
        )
    monkeypatch.setitem(PACKAGES, corpus, pinned)


@pytest.mark.parametrize("inner", [".", "usr/share/games/fillets-ng", "usr/share"])
def test_a_folder_is_searched_at_any_depth(game, inner):
    package = find_package("fillets", game / inner, "cs")
    assert package.folder == game / "usr/share/games/fillets-ng"
    assert package.source == "folder"


def test_a_source_without_the_data_or_the_language_is_refused(game, tmp_path):
    with pytest.raises(FileNotFoundError, match="'nl'.*fillets-ng-data-nl"):
        find_package("fillets", game, "nl")
    with pytest.raises(FileNotFoundError, match="tuxpaint-stamps-default"):
        find_package("stamps", game, "ca")
    with pytest.raises(FileNotFoundError, match=r"the folders etc and wav, for .*festvox-ru"):
        find_package("festvox", game, "ru")
    with pytest.raises(FileNotFoundError, match=r"the folder sounds, .*asterisk-core-sounds-fr"):
        find_package("asterisk", game, "fr")
    with pytest.raises(FileNotFoundError, match="no file or folder .*nowhere"):
        find_package("fillets", tmp_path / "nowhere", "cs")
    (tmp_path / "text.docx").write_text("no archive")
    with pytest.raises(ValueError, match="text.docx is not an archive"):
        find_package("fillets", tmp_path / "text.docx", "cs")


def test_installed_data_come_before_everything_but_a_source(game, monkeypatch):
    place = game / "usr/share/games/fillets-ng"
    monkeypatch.setitem(packages.INSTALLED, "fillets", place)
    package = find_package("fillets", language="cs")
    assert package.folder == place
    assert package.source == "installed package"
    assert package.versions == {}
    with pytest.raises(OSError, match="no apt-get"):
        find_package("fillets", language="nl")  # installed, but without Dutch voices


@pytest.mark.parametrize("kind", ["xz", "zst"])
def test_several_debs_in_a_folder_are_unpacked_once_and_found_again(
    game, tmp_path, monkeypatch, kind
):
    files = tree(game)
    scripts = {name: content for name, content in files.items() if name.endswith(".lua")}
    sounds = {name: content for name, content in files.items() if name.endswith(".ogg")}
    store = tmp_path / "debs"
    debs = [
        make_deb(
            store / "a.deb",
            "fillets-ng-data",
            "1",
            scripts | {"./usr/share/picture.png": b"x"},
            kind,
        ),
        make_deb(store / "b.deb", "fillets-ng-data-cs", "1", sounds, kind),
    ]
    make_deb(store / "c.deb", "something-else", "3", {"./usr/share/other.txt": b"x"})
    pin(monkeypatch, "fillets", *debs)
    package = find_package("fillets", store, "cs")
    assert tree(package.folder) == tree(game / "usr/share/games/fillets-ng")
    digest = sha256(debs[0].read_bytes()).hexdigest()
    assert package.versions["fillets-ng-data"] == {"version": "1", "sha256": digest, "tested": True}
    assert set(package.versions) == {"fillets-ng-data", "fillets-ng-data-cs"}
    assert not leftovers()
    assert not list((cache_dir() / "packages").rglob("*.png"))

    # Found again in the cache, without a source and without apt-get.
    assert find_package("fillets", language="cs") == package


@pytest.mark.parametrize("name", ["game.tar.gz", "game.tar.xz", "game.zip"])
def test_tar_and_zip_archives_are_unpacked(game, tmp_path, name):
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for inner, content in tree(game).items():
                archive.writestr(f"top/{inner.removeprefix('./')}", content)
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
            archive.add(game, "top")
    package = find_package("fillets", path, "cs")
    assert tree(package.folder) == tree(game / "usr/share/games/fillets-ng")
    assert package.versions[name]["tested"] is False


def test_another_version_warns_and_the_tested_version_with_other_content_is_refused(
    game, tmp_path, monkeypatch
):
    tested = make_deb(tmp_path / "tested.deb", "fillets-ng-data", "1", {"./x.lua": b"x"})
    pin(monkeypatch, "fillets", tested)
    newer = make_deb(tmp_path / "newer.deb", "fillets-ng-data", "2", tree(game))
    with pytest.warns(UserWarning, match=r"fillets-ng-data 2 was not tested \(1 was\)"):
        assert find_package("fillets", newer, "cs").versions["fillets-ng-data"]["tested"] is False
    changed = make_deb(tmp_path / "changed.deb", "fillets-ng-data", "1", tree(game))
    with pytest.raises(ValueError, match="refused changed.deb.*SHA-256"):
        find_package("fillets", changed, "cs")


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "cut off in the header":
        path.write_bytes(content[:90])
    elif how == "no archive":
        path.write_bytes(b"<html>not found</html>")
    elif how == "flipped":
        middle = len(content) * 3 // 4
        flipped = bytes(byte ^ 255 for byte in content[middle : middle + 64])
        path.write_bytes(content[:middle] + flipped + content[middle + 64 :])
    else:
        path.write_bytes(b"")


# Flipped bytes in zst are not tested: pyarrow writes it without a checksum, so the archive may
# unpack. (apt checks the SHA-256.)
DAMAGE = [
    (name, how)
    for name in ("game.deb", "game-zst.deb", "game.tar.gz", "game.zip")
    for how in ("cut off", "cut off in the header", "no archive", "flipped", "empty")
    if (name, how) != ("game-zst.deb", "flipped")
]


@pytest.mark.parametrize(("name", "how"), DAMAGE)
@pytest.mark.filterwarnings("ignore:fillets-ng-data")
def test_damaged_archives_are_named_and_leave_nothing(game, tmp_path, name, how):
    path = tmp_path / name
    if name.endswith(".deb"):
        make_deb(path, "fillets-ng-data", "9", tree(game), "zst" if "zst" in name else "xz")
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for inner, content in tree(game).items():
                archive.writestr(inner.removeprefix("./"), content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(game, "top")
    whole = path.read_bytes()
    damaged(path, how)
    with pytest.raises(ValueError, match=rf"{name}.*(damaged|no .deb file|download it again)"):
        find_package("fillets", path, "cs")
    assert not list((cache_dir() / "packages").glob("fillets-*"))
    path.write_bytes(whole)
    find_package("fillets", path, "cs")  # what the failure left is no obstacle
    assert not leftovers()


@pytest.mark.parametrize("member", ["../outside.txt", "usr/../../outside.txt"])
@pytest.mark.parametrize("name", ["evil.deb", "evil.tar.gz", "evil.zip"])
def test_a_member_that_leads_outside_is_refused(tmp_path, name, member):
    path = tmp_path / name
    target = tmp_path / "inside" / "target"
    target.mkdir(parents=True)
    if name.endswith(".deb"):
        make_deb(path, "evil", "1", {member: b"x"})
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, "x")
    else:
        path.write_bytes(gzip.compress(tar_bytes({member: b"x"})))
    with pytest.raises(ValueError, match=rf"refused {name}.*outside"):
        unpack(path, target, lambda _: True)
    assert not list(tmp_path.rglob("outside.txt"))


def test_links_in_an_archive_are_left_out(tmp_path):
    path = tmp_path / "links.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("a.txt")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    unpack(path, tmp_path / "target", lambda _: True)
    assert not list((tmp_path / "target").rglob("*"))


def fake_apt(tmp_path: Path, script: str) -> None:
    """Put a program named apt-get in front of everything."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_distributions_package_is_fetched_by_apt(tmp_path, monkeypatch):
    make_stamps(tmp_path / "tux", count=3)
    deb = make_deb(tmp_path / "stamps.deb", "tuxpaint-stamps-default", "5", tree(tmp_path / "tux"))
    fake_apt(tmp_path, f"cp {deb} .")
    with pytest.warns(UserWarning, match="5 was not tested"):
        package = find_package("stamps", language="ca")
    assert package.source == "apt-get download"
    assert len(list(package.folder.rglob("*.ogg"))) == 3
    assert not leftovers()
    fake_apt(tmp_path, "exit 1")
    assert find_package("stamps", language="ca") == package  # from the cache


def test_apt_may_bring_another_build_of_the_tested_version(tmp_path, monkeypatch):
    """Ubuntu builds Debian's source anew: same version, other bytes, signature checked by apt."""
    make_stamps(tmp_path / "tux", count=3)
    version = PACKAGES["stamps"]["tuxpaint-stamps-default"].version
    deb = make_deb(
        tmp_path / "stamps.deb", "tuxpaint-stamps-default", version, tree(tmp_path / "tux")
    )
    fake_apt(tmp_path, f"cp {deb} .")
    with pytest.warns(UserWarning, match="another build"):
        package = find_package("stamps", language="ca")
    assert package.versions["tuxpaint-stamps-default"]["tested"] is False


def test_package_lists_are_fetched_when_there_are_none(tmp_path):
    make_stamps(tmp_path / "tux", count=3)
    deb = make_deb(tmp_path / "stamps.deb", "tuxpaint-stamps-default", "5", tree(tmp_path / "tux"))
    fake_apt(
        tmp_path,
        f"""
case "$*" in
  *Dir::State::Lists=*update) touch lists/updated;;
  *Dir::State::Lists=*download*) test -e lists/updated && cp {deb} .;;
  *) echo "E: Unable to locate package tuxpaint-stamps-default" >&2; exit 100;;
esac""",
    )
    with pytest.warns(UserWarning, match="not tested"):
        assert find_package("stamps", language="ca").folder.name == "stamps"


def test_package_lists_are_fetched_on_a_system_in_another_language(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    make_stamps(tmp_path / "tux", count=3)
    deb = make_deb(tmp_path / "stamps.deb", "tuxpaint-stamps-default", "5", tree(tmp_path / "tux"))
    fake_apt(
        tmp_path,
        f"""
case "$LC_ALL $*" in
  *Dir::State::Lists=*update) touch lists/updated;;
  *Dir::State::Lists=*download*) test -e lists/updated && cp {deb} .;;
  C*) echo "E: Unable to locate package tuxpaint-stamps-default" >&2; exit 100;;
  *) echo "E: Paket tuxpaint-stamps-default kann nicht gefunden werden." >&2; exit 100;;
esac""",
    )
    with pytest.warns(UserWarning, match="not tested"):
        assert find_package("stamps", language="ca").folder.name == "stamps"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            'echo "E: Unable to locate package x" >&2; exit 100',
            "sudo apt-get update.*or install fillets-ng-data",
        ),
        (
            'echo "E: Failed to fetch http://x Could not resolve host" >&2; exit 100',
            "check the network",
        ),
        ("exit 0", "could not fetch"),
    ],
)
def test_apt_errors_say_what_to_do(tmp_path, script, message):
    fake_apt(tmp_path, script)
    with pytest.raises(OSError, match=message):
        find_package("fillets", language="cs")
    assert not leftovers()


def test_without_apt_the_error_names_the_packages(monkeypatch):
    with pytest.raises(OSError, match="no apt-get.*fillets-ng-data-cs.*source="):
        find_package("fillets", language="cs")


def test_the_error_for_a_full_disk_names_the_cache(game, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    deb = make_deb(tmp_path / "x.deb", "fillets-ng-data", "9", tree(game))
    monkeypatch.setattr(packages, "unpack", full)
    with pytest.raises(OSError, match="no space left.*LAB_CACHE"), pytest.warns(UserWarning):
        find_package("fillets", deb, "cs")
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError("something else passes through")


def test_everything_about_a_corpus_of_packages_is_stated():
    for table in (packages.NEEDED, packages.SPOKEN):
        assert set(table) == set(PACKAGES)
    assert set(PACKAGES) == set(ITEMS) - set(MADE_UP)


def test_download_sizes_are_those_of_the_packages():
    assert download_size("fillets") == 142_269_236
    assert download_size("stamps") == 160_880_444
    assert download_size("festvox") == 178_728_512
    assert download_size("asterisk") == 79_429_028
    assert download_size("toy") == 0


# ---- damaged caches, two processes, archives that grow


def test_a_damaged_cache_is_told_set_aside_and_unpacked_anew(game, tmp_path, monkeypatch, capfd):
    deb = make_deb(tmp_path / "x.deb", "fillets-ng-data", "1", tree(game))
    pin(monkeypatch, "fillets", deb)
    whole = find_package("fillets", deb, "cs")
    (folder,) = (cache_dir() / "packages").glob("fillets-*")
    content = tree(whole.folder)
    sound = next(whole.folder.rglob("*.ogg"))

    sound.write_bytes(sound.read_bytes()[:-1])  # cut
    with pytest.raises(OSError, match="no apt-get"):  # absent without a source
        find_package("fillets", language="cs")
    assert f"{folder} is damaged (it has {len(content)} files with" in capfd.readouterr().err
    assert find_package("fillets", deb, "cs") == whole
    assert tree(whole.folder) == content

    for damage in ("", "{", '{"source": "archive"}'):
        (folder / "package.json").write_text(damage)
        assert find_package("fillets", deb, "cs") == whole
        assert "package.json" in capfd.readouterr().err
        assert find_package("fillets", language="cs") == whole
        assert capfd.readouterr().err.count("damaged") == 0


def test_a_process_that_has_waited_uses_what_the_other_has_downloaded(tmp_path, monkeypatch):
    make_stamps(tmp_path / "tux", count=3)
    deb = make_deb(tmp_path / "stamps.deb", "tuxpaint-stamps-default", "5", tree(tmp_path / "tux"))
    pin(monkeypatch, "stamps", deb)
    fake_apt(tmp_path, f"echo download >> {tmp_path}/calls; /bin/sleep 1; cp {deb} .")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(find_package, "stamps", language="ca") for _ in range(2)]
        first, second = (call.result() for call in asked)
    assert first == second
    assert (tmp_path / "calls").read_text().count("download") == 1


@pytest.mark.parametrize("name", ["bomb.deb", "bomb.tar.gz", "bomb.tar.xz", "bomb.zip"])
def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "SMALL", 3 << 20)
    path = tmp_path / name
    files = {f"./sound/level/cs/{number}.ogg": bytes(1 << 20) for number in range(4)}
    if name.endswith(".deb"):
        make_deb(path, "fillets-ng-data", "9", files)
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for inner, content in files.items():
                archive.writestr(inner.removeprefix("./"), content)
    else:
        compress = gzip.compress if name.endswith("gz") else lzma.compress
        path.write_bytes(compress(tar_bytes(files)))
    assert path.stat().st_size < 1 << 14
    with (
        pytest.raises(ValueError, match=f"refused {name}: it unpacks to more than 3 MB"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        find_package("fillets", path, "cs")
    assert not list((cache_dir() / "packages").glob("fillets-*"))
    assert not leftovers()
