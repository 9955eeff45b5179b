"""The command line `distilwhisper`: check, train, evaluate, transcribe, compare and share."""
