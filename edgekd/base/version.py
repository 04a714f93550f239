"""The version of this edgekd, which a bundle's fingerprint holds."""

VERSION = "0.1.0"
