"""Data: the sources of samples, the decoded store, replayable views of samples, and batches."""

from edgekd.data.store import Samples, Split, Unseen, decode, decode_test, open_samples, open_test
from edgekd.data.views import Batch, Views

__all__ = ["Batch", "Samples", "Split", "Unseen", "Views", "decode", "decode_test", "open_samples", "open_test"]
