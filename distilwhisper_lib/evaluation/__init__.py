"""Evaluation: test sets, transcription, scores; models baked and exported for others' programs."""
