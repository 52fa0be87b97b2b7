"""Model → text: the page, and the commands that transcribe without it."""

import gc

# Imports make millions of objects that stay; Python would look through the new ones after every 700.
gc.set_threshold(10_000, 10, 10)
