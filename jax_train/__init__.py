"""Shards → model: training, evaluation and export of Whisper in JAX."""

import gc

# Imports and tracing make millions of objects that stay; Python would look through the new ones after every 700.
gc.set_threshold(10_000, 10, 10)
