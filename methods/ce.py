"""Cross-entropy: the baseline. The network as it is, no structure anywhere."""

from __future__ import annotations

from methods.base import Method


class CrossEntropy(Method):
    """Softmax cross-entropy per pixel; every hook is the default."""
