"""The demo: one sound, every trained system beside the others, and where the experts were used."""
