"""FLEURS (google/fleurs on the hub, CC-BY 4.0): the published tables and sounds, or the hub's parquet files."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
from huggingface_hub import snapshot_download

from ...files import data_dir, disk_errors
from .archives import damage_named, unpack_once
from .items import Item
from .tables import Reading, find_folder, read_table, scratch_folder

REVISION = "70bb2e84b976b7e960aa89f1c648e09c59f894dd"  # of the dataset google/fleurs

CODES: dict[str, str] = {
    code.split("_")[0]: code
    for code in (  # Whisper's code -> FLEURS's
        "af_za am_et ar_eg as_in az_az be_by bg_bg bn_in bs_ba ca_es cs_cz cy_gb da_dk de_de el_gr en_us es_419 et_ee "
        "fa_ir fi_fi fr_fr gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id is_is it_it ja_jp ka_ge kk_kz km_kh "
        "kn_in ko_kr lb_lu ln_cd lo_la lt_lt lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm ne_np nl_nl oc_fr "
        "pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th "
        "tr_tr uk_ua ur_pk uz_uz vi_vn yo_ng"
    ).split()
}

CODES |= {"jw": "jv_id", "no": "nb_no", "tl": "fil_ph", "zh": "cmn_hans_cn", "yue": "yue_hant_hk"}

COLUMNS = (
    "id",
    "file_name",
    "raw_transcription",
    "transcription",
    "characters",
    "num_samples",
    "gender",
)

TABLES = {"train": "train", "dev": "validation", "test": "test"}  # name of a table -> split

GENDERS = ("male", "female", "other")  # the hub's numbers


def read_fleurs(name: str, language: str, source: str | Path | None) -> Reading:
    """Return every clip of a language, with the English sentence of the same id where en_us lies beside it.

    The English sentence is the first of en_us's train, dev and test. Fetched from the hub where there is no folder.
    Raises FileNotFoundError (no such folder, no test split), ValueError (damaged archive or parquet, missing column)
    or OSError (the hub cannot be reached), each with what to do.
    """
    code = CODES[language]
    folder, where = _find(code, source)
    parquet = [path for table in TABLES for path in _parquet_files(folder, table)]
    scratch = scratch_folder(f"{name}-{code}", sorted(folder.glob("audio/*.tar.gz")) + parquet)
    english, flaws, items = {}, [], []
    for row in (row for table in TABLES for row in _rows(folder.parent / "en_us", table, flaws)):
        english.setdefault(row["id"], row["transcription"].strip())
    for table, split in TABLES.items():
        rows, sounds = _rows(folder, table, flaws), _sounds(folder, table, scratch)
        items += [
            Item(
                f"fleurs/{code}/{split}/{PurePosixPath(row['file_name']).stem}",
                sounds.get(PurePosixPath(row["file_name"]).name),
                row["transcription"].strip(),
                language,
                row["gender"].lower(),
                "fleurs",
                english.get(row["id"], ""),
                split,
            )
            for row in rows
        ]
    about = {
        "source": where,
        "release": REVISION if where == "hub" else None,
        "with_english": sum(item.translation_en != "" for item in items),
    }
    return Reading(items, [*folder.glob("*.tsv"), *parquet], flaws, about, scratch)


def _find(code: str, source: str | Path | None) -> tuple[Path, str]:
    """Return the folder of a language and where it comes from."""
    root, where = Path(source or data_dir() / "fleurs").expanduser(), "folder"
    folder = find_folder(root, code)
    if folder is None and source is None:
        folder, where = _from_hub(code, root), "hub"
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
    return folder, where


def _from_hub(code: str, root: Path) -> Path:
    """Fetch the published tables and sounds of a language, and the English tables; never a loading script."""
    patterns = [f"data/{code}/*.tsv", f"data/{code}/audio/*.tar.gz", "data/en_us/*.tsv"]
    try:
        place = snapshot_download(
            "google/fleurs", repo_type="dataset", revision=REVISION, allow_patterns=patterns
        )
    except OSError as error:  # the hub's own errors are such
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise OSError(
            f"no FLEURS in {code}: looked for a folder {code} under {root}, and could not fetch it from the "
            f"hub, google/fleurs ({problem}): check the network (no account is needed), or put data/{code} "
            "and data/en_us of another machine there"
        ) from error
    return Path(place) / "data" / code


def _rows(folder: Path, table: str, flaws: list[str]) -> list[dict[str, str]]:
    """Return the rows of a table, or of the split's parquet files, without their sound."""
    if (path := folder / f"{table}.tsv").is_file():
        return [row for _, row in read_table(path, COLUMNS, flaws, header=COLUMNS)]
    return [
        {
            "id": str(row["id"]),
            "file_name": PurePosixPath(row["path"]).name,
            "gender": GENDERS[row["gender"]],
            "transcription": row["transcription"] or "",
        }
        for row in _parquet(folder, table, ["id", "path", "gender", "transcription"])
    ]


def _parquet_files(folder: Path, table: str) -> list[Path]:
    """Return a split's parquet files, in the one or the other way that the hub names them."""
    split = TABLES[table]
    return sorted(folder.glob(f"{split}/*.parquet")) or sorted(
        folder.glob(f"fleurs-{split}*.parquet")
    )


def _parquet(folder: Path, table: str, columns: list[str]) -> Iterator[dict]:
    for path in _parquet_files(folder, table):
        with damage_named(path.name):
            file = pq.ParquetFile(path)
            if missing := [column for column in columns if column not in file.schema_arrow.names]:
                raise ValueError(f"{path} lacks the column {', '.join(missing)}: is it FLEURS?")
            for batch in file.iter_batches(64, columns=columns):
                yield from batch.to_pylist()


def _sounds(folder: Path, table: str, scratch: Path) -> dict[str, Path]:
    """Return the sounds of a table by file name: of its archive, of parquet files, or unpacked beside it."""
    unpacked, archive = scratch / table, folder / "audio" / f"{table}.tar.gz"
    if archive.is_file():
        unpack_once(archive, unpacked, lambda member: member.endswith(".wav"))
    with disk_errors(unpacked, "TMPDIR"):
        for row in _parquet(folder, table, ["path", "audio"]):
            unpacked.mkdir(parents=True, exist_ok=True)
            (unpacked / PurePosixPath(row["path"]).name).write_bytes(row["audio"]["bytes"] or b"")
    places = (folder / "audio" / table, folder / table, unpacked)
    return {path.name: path for place in places for path in place.rglob("*.wav")}
