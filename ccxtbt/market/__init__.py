"""Data in: history, streams and the hand-over between them."""
