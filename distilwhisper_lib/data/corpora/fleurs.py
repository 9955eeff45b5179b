"""FLEURS: the published tables and sounds, or the parquet files of the hub.

Source: google/fleurs on the Hugging Face hub (CC-BY 4.0).
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
from huggingface_hub import snapshot_download

from ...files import data_dir, disk_errors
from ..audio import READABLE
from .archives import Budget, damage_named, unpack_once
from .items import Item, distinct_ids
from .tables import (
    Reading,
    find_folders,
    nearest_name,
    only_one,
    path_key,
    read_table,
    scratch_folder,
)

REVISION = "70bb2e84b976b7e960aa89f1c648e09c59f894dd"  # commit of google/fleurs

# FLEURS's codes that begin with Whisper's code of the language.
SAME_CODES = """
    af_za am_et ar_eg as_in az_az be_by bg_bg bn_in bs_ba ca_es cs_cz cy_gb da_dk de_de el_gr en_us
    es_419 et_ee fa_ir fi_fi fr_fr gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id is_is it_it
    ja_jp ka_ge kk_kz km_kh kn_in ko_kr lb_lu ln_cd lo_la lt_lt lv_lv mi_nz mk_mk ml_in mn_mn mr_in
    ms_my mt_mt my_mm ne_np nl_nl oc_fr pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw
    so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua ur_pk uz_uz vi_vn yo_ng
"""

# Whisper's code of a language -> FLEURS's
CODES: dict[str, str] = {
    **{code.split("_")[0]: code for code in SAME_CODES.split()},
    "jw": "jv_id",
    "no": "nb_no",
    "tl": "fil_ph",
    "zh": "cmn_hans_cn",
    "yue": "yue_hant_hk",
}

COLUMNS = (  # of the published tables, which do not name them
    "id",
    "file_name",
    "raw_transcription",
    "transcription",
    "characters",
    "num_samples",
    "gender",
)

TABLES = {"train": "train", "dev": "validation", "test": "test"}  # name of a table -> split

LONGEST_NAME = 255  # bytes of a file's name

GENDERS = ("male", "female", "other")  # by the number that the parquet files have


def read_fleurs(name: str, language: str, source: str | Path | None) -> Reading:
    """Return every clip of a language.

    A clip has the English sentence of the same id, where the folder en_us lies beside that of the
    language: the first one in en_us's train, dev and test. Without a folder the files are
    downloaded from the hub.

    Args:
        name: Of the corpus.
        language: Whisper's code of the language.
        source: A folder in which that of the language is; None: `fleurs` in the data folder.

    Raises:
        FileNotFoundError: If there is no such folder, or no test split.
        ValueError: For a damaged archive or parquet file, or a missing column.
        OSError: If the hub cannot be reached. Each message says what to do.
    """
    code = CODES[language]
    folder, origin = _find(code, source)
    archives = [path for table in TABLES if (path := _archive(folder, table)) is not None]
    parquet = [path for table in TABLES for path in _parquet_files(folder, table)]
    scratch = scratch_folder(f"{name}-{code}", archives + parquet)

    flaws: list[str] = []
    english = _english_sentences(folder.parent / "en_us", flaws)
    items = []
    for table, split in TABLES.items():
        rows = _read_rows(folder, table, flaws)
        sounds = _find_sounds(folder, table, scratch)
        files = [PurePosixPath(row["file_name"]) for row in rows]
        ids = distinct_ids(f"fleurs/{code}/{split}/", files)
        is_nearest_told = not sounds
        for item_id, file, row in zip(ids, files, rows, strict=True):
            sound = sounds.get(file.name) or sounds.get(path_key(file.name))
            looked_for = "" if sound else _looked_for(folder, table, file.name, sounds)
            if sound is None and not is_nearest_told:  # it takes a while among many names
                there = sorted({path.name for path in sounds.values()})
                looked_for += f"; {nearest_name(file.name, there)}"
                is_nearest_told = True
            item = Item(
                id=item_id,
                sound=sound,
                text=row["transcription"].strip(),
                language=language,
                speaker=row["gender"].lower(),
                room_or_category="fleurs",
                translation_en=english.get(row["id"], ""),
                split=split,
                looked_for=looked_for,
            )
            items.append(item)

    about = {
        "source": origin,
        "release": REVISION if origin == "hub" else None,
        "with_english": sum(item.translation_en != "" for item in items),
    }
    return Reading(items, [*sorted(folder.glob("*.tsv")), *parquet], flaws, about, scratch)


def _english_sentences(folder: Path, flaws: list[str]) -> dict[str, str]:
    """Return the English sentence of each id; none where the folder does not exist."""
    english: dict[str, str] = {}
    for table in TABLES:
        for row in _read_rows(folder, table, flaws):
            english.setdefault(row["id"], row["transcription"].strip())
    return english


# ---- the folder of a language


def _find(code: str, source: str | Path | None) -> tuple[Path, str]:
    """Return the folder of a language, and "folder" or "hub" as its origin."""
    root = Path(source or data_dir() / "fleurs").expanduser()
    folder = _one_folder(root, code)
    origin = "folder"
    if folder is None and source is None:
        folder = _download(code, root)
        origin = "hub"

    if folder is None:
        raise FileNotFoundError(
            f"no folder {code} under {root}: it needs data/{code} of google/fleurs (test.tsv, "
            "audio/test.tar.gz, ...); give no source to have it fetched from the hub"
        )
    if not (folder / "test.tsv").is_file() and not _parquet_files(folder, "test"):
        raise FileNotFoundError(
            f"{folder} has no test split (test.tsv, test/*.parquet or fleurs-test-*.parquet): "
            "fetch it again, or remove the folder to have it fetched from the hub"
        )
    return folder, origin


def _one_folder(root: Path, code: str) -> Path | None:
    """Return the folder of a language at or below `root`, or None; ValueError for several.

    A copy of the hub's repository has the tables in one folder of the language, and may have
    parquet files in another: the one with tables counts.
    """
    folders = find_folders(root, [code])
    with_data = [folder for folder in folders if _has_data(folder)]
    with_tables = [folder for folder in folders if (folder / "test.tsv").is_file()]
    return only_one(with_tables or with_data or folders, f"folders {code}", root)


def _has_data(folder: Path) -> bool:
    """Return whether a folder has a table, a parquet file or a sound of any split."""
    return any(
        (folder / f"{table}.tsv").is_file()
        or _parquet_files(folder, table)
        or _archive(folder, table) is not None
        for table in TABLES
    )


def _download(code: str, root: Path) -> Path:
    """Download the published files of a language and the English tables; no loading script is run.

    `root` is the folder that the error message names.
    """
    patterns = [f"data/{code}/*.tsv", f"data/{code}/audio/*.tar.gz", "data/en_us/*.tsv"]
    try:
        snapshot = snapshot_download(
            "google/fleurs", repo_type="dataset", revision=REVISION, allow_patterns=patterns
        )
    except Exception as error:  # huggingface_hub 1.27 lets those of its network library through
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise OSError(
            f"no FLEURS in {code}: looked for a folder {code} under {root}, and could not fetch it "
            f"from the hub, google/fleurs ({problem}): check the network (no account is needed), "
            f"or put data/{code} and data/en_us of another machine there"
        ) from error
    return Path(snapshot) / "data" / code


# ---- rows and sounds of a table


def _read_rows(folder: Path, table: str, flaws: list[str]) -> list[dict[str, str]]:
    """Return the rows of a published table, or of the split's parquet files, without sound.

    `file_name` is the name alone, without folders before it.
    """
    path = folder / f"{table}.tsv"
    if path.is_file():
        found = read_table(path, COLUMNS, flaws, header=COLUMNS)
    else:
        found = _read_parquet_rows(folder, table)

    rows = []
    for place, row in found:
        name = _sound_name(row["file_name"])
        if name:
            rows.append(row | {"file_name": name})
        else:
            flaws.append(f"{place}: no name of a sound file, or none that a file can have")
    return rows


def _read_parquet_rows(folder: Path, table: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield place and cells of each row in the parquet files of a split, without sound."""
    number = 0
    for path in _parquet_files(folder, table):
        for row in _read_parquet(path, ["id", "path", "gender", "transcription"]):
            number += 1
            gender = row["gender"]
            is_known = isinstance(gender, int) and 0 <= gender < len(GENDERS)
            cells = {
                "id": str(row["id"]),
                "file_name": row["path"] or "",
                "gender": GENDERS[gender] if is_known else "other",
                "transcription": row["transcription"] or "",
            }
            yield f"{folder.name}/{table}:{number}", cells


def _sound_name(path: str | None) -> str:
    """Return the name in the path of a sound file; "" where no file can have it."""
    name = PurePosixPath((path or "").replace("\\", "/")).name
    if name == ".." or "\0" in name or len(os.fsencode(name)) > LONGEST_NAME:
        return ""
    return name


def _find_sounds(folder: Path, table: str, scratch: Path) -> dict[str, Path]:
    """Return the sound files of a table by name and by `path_key` of the name.

    They are unpacked where they are in archives or parquet files.
    """
    unpacked = scratch / table
    archive = _archive(folder, table)
    if archive is not None:
        unpack_once(archive, unpacked, lambda member: member.lower().endswith(READABLE))
    with disk_errors(unpacked, "TMPDIR"):
        for path in _parquet_files(folder, table):
            budget = Budget(path)
            for row in _read_parquet(path, ["path", "audio"]):
                name = _sound_name(row["path"])
                content = (row["audio"] or {}).get("bytes") or b""
                if name:
                    budget.spend(len(content))
                    unpacked.mkdir(parents=True, exist_ok=True)
                    (unpacked / name).write_bytes(content)

    sounds: dict[str, Path] = {}
    by_key: dict[str, Path] = {}
    for place in (folder / "audio" / table, folder / table, unpacked):
        for path in sorted(place.rglob("*.*")):
            if path.suffix.lower() in READABLE:
                sounds[path.name] = path
                by_key[path_key(path.name)] = path
                by_key[path_key(path.stem)] = path  # for a table that leaves out the ending
    return by_key | sounds


def _archive(folder: Path, table: str) -> Path | None:
    """Return the archive with the sounds of a table, or None."""
    for place in (folder / "audio", folder):
        for ending in (".tar.gz", ".tgz", ".tar", ".zip"):
            path = place / f"{table}{ending}"
            if path.is_file():
                return path
    return None


def _looked_for(folder: Path, table: str, name: str, sounds: dict[str, Path]) -> str:
    """Return where a sound was looked for."""
    archive = _archive(folder, table)
    if archive is not None:
        return f"looked for {name} in {archive}"
    if sounds:
        return f"looked for {next(iter(sounds.values())).parent / name}"
    return (
        f"looked for {folder / 'audio' / table / name} and for {folder / 'audio' / table}.tar.gz; "
        "there are no sounds of this table: download them as well"
    )


def _parquet_files(folder: Path, table: str) -> list[Path]:
    """Return the parquet files of a split, in any of the layouts that the hub has."""
    split = TABLES[table]
    for pattern in (f"{split}/*.parquet", f"fleurs-{split}*.parquet", f"{split}*.parquet"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return []


def _read_parquet(path: Path, columns: list[str]) -> Iterator[dict]:
    """Yield some columns of each row in a parquet file."""
    with damage_named(path.name):
        file = pq.ParquetFile(path)
        there = file.schema_arrow.names
        missing = [column for column in columns if column not in (*there, "path")]
        if missing:
            raise ValueError(f"{path} lacks the column {', '.join(missing)}: is it FLEURS?")

        # Without the column `path` the sound's own one counts.
        has_path = "path" in there
        wanted = [column if column in there else "audio.path" for column in columns]
        for batch in file.iter_batches(64, columns=wanted):
            for row in batch.to_pylist():
                yield row if has_path else row | {"path": (row["audio"] or {}).get("path")}
