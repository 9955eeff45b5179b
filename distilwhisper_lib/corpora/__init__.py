"""The corpora: found, fetched, unpacked, split, and loaded as `datasets`."""

from .loading import CORPORA, FEATURES, corpus_release, corpus_report, held_out_lead, load_corpus, select
from .packages import download_size

__all__ = ["CORPORA", "FEATURES", "corpus_release", "corpus_report", "download_size", "held_out_lead", "load_corpus",
           "select"]  # fmt: skip
