"""Data: where samples come from, the decoded store, replayable views of them, and batches."""

from edgekd.data.store import Samples, Split, decode, open_samples
from edgekd.data.views import Batch, Views

__all__ = ["Batch", "Samples", "Split", "Views", "decode", "open_samples"]
