"""The corpora: found, fetched, unpacked, split, and loaded as `datasets`."""
