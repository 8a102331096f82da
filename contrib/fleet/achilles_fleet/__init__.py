"""Scans many checkpoints at once with achilles-audit, on Ray."""
