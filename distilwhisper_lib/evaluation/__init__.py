"""Evaluation: test sets, transcription and scores; models baked and exported for other programs."""
