"""Plain Whisper: models by name, the short window, logits, tokens."""
