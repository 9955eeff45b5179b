"""The corpora: found, fetched, unpacked, split, and loaded as `datasets`."""

from .loading import (
    CORPORA, FEATURES, corpus_release, corpus_report, has_common_voice, held_out_lead, load_corpus, select,
)  # fmt: skip
from .packages import download_size

__all__ = ["CORPORA", "FEATURES", "corpus_release", "corpus_report", "download_size", "has_common_voice",
           "held_out_lead", "load_corpus", "select"]  # fmt: skip
