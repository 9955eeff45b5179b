"""Speech: audio, batches, text normalisers and the corpora."""
