"""Data sets to try alignray on: real prices, Numerai's files, and their layout with a known signal."""

from __future__ import annotations

from alignray.data.datasets.numerai import numerai
from alignray.data.datasets.numerai_download import download_numerai
from alignray.data.datasets.sp500 import sp500
from alignray.data.datasets.synthetic import synthetic, synthetic_oracle
from alignray.data.datasets.synthetic_folder import write_numerai_layout

__all__ = ["download_numerai", "numerai", "sp500", "synthetic", "synthetic_oracle", "write_numerai_layout"]
