"""What ships in a bundle or is sent to a device: Python 3.8, numpy and the runtime, nothing of edgekd."""

from pathlib import Path

SCRIPTS = Path(__file__).parent
