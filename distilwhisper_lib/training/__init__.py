"""Training: what is minimised, one trainer for every method, cached teacher distributions."""
