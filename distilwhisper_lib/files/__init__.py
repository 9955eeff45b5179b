"""Folders, JSON, hashes, atomic writes, locks and damaged files: every name that others use."""

from .atomic import atomic_file, atomic_folder, check_writable, process_runs
from .damaged import set_aside, tell
from .disk import can_write, disk_errors, make_folder
from .folders import (
    FOLDER_VARIABLES,
    REPOSITORY,
    cache_dir,
    data_dir,
    expanded,
    resolve_folders,
    results_dir,
)
from .hashes import file_sha256, file_state, remembered_sha256, short_hash
from .json_files import SEAL, parse_json, read_json, seal, write_json
from .locks import is_being_made, one_at_a_time

__all__ = [
    "FOLDER_VARIABLES",
    "REPOSITORY",
    "SEAL",
    "atomic_file",
    "atomic_folder",
    "cache_dir",
    "can_write",
    "check_writable",
    "data_dir",
    "disk_errors",
    "expanded",
    "file_sha256",
    "file_state",
    "is_being_made",
    "make_folder",
    "one_at_a_time",
    "parse_json",
    "process_runs",
    "read_json",
    "remembered_sha256",
    "resolve_folders",
    "results_dir",
    "seal",
    "set_aside",
    "short_hash",
    "tell",
    "write_json",
]
