"""Scripts that ship in a bundle or are sent to a device. They need Python 3.8, numpy and the runtime, not edgekd."""

from pathlib import Path

SCRIPTS = Path(__file__).parent
