"""Data sets to try alignray on: real prices, and Numerai's layout with a known signal."""

from __future__ import annotations

from alignray.data.datasets.sp500 import sp500
from alignray.data.datasets.synthetic import synthetic, synthetic_oracle

__all__ = ["sp500", "synthetic", "synthetic_oracle"]
