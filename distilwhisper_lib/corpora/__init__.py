"""The two corpora and the made-up one: found, fetched, unpacked, split, and loaded as `datasets`."""

from .loading import CORPORA, FEATURES, corpus_report, held_out_lead, load_corpus, select
from .packages import download_size

__all__ = ["CORPORA", "FEATURES", "corpus_report", "download_size", "held_out_lead", "load_corpus", "select"]
