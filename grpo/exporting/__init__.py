"""Checkpoints for serving in low precision, and with more or fewer experts."""
