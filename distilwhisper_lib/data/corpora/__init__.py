"""The speech corpora: found, downloaded, unpacked, split, and loaded as `datasets`."""
