"""Data: audio, batches, text normalisers and the speech corpora."""
