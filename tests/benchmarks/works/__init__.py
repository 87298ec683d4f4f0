"""The training steps that are timed, one a file: the same weights and batches in every library."""
