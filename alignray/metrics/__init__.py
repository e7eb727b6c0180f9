"""What a model is judged by: Numerai's own scores, batched in torch, and what its decisions look like.

Every metric maps the rows of an era, `[..., n]`, to one number an era, `[...]`, in float64, whatever the inputs'
type. Batch dimensions broadcast, so that the members of an ensemble, `[R, B, n]`, meet targets and features that are
stored once. Rows outside `mask` take no part: what they hold, NaN included, changes nothing. An era for which a
metric is undefined scores NaN. No gradient flows through metrics of ranks or of features: they measure only.
"""

from alignray.metrics.decisions import active_share, calibration_slope, turnover, utility
from alignray.metrics.neutrality import (
    exposure,
    feature_correlations,
    feature_neutral_corr,
    max_feature_correlation,
    neutralize,
)
from alignray.metrics.ranking import numerai_corr
from alignray.metrics.series import max_drawdown, mean, sharpe, std

__all__ = [
    "active_share",
    "calibration_slope",
    "exposure",
    "feature_correlations",
    "feature_neutral_corr",
    "max_drawdown",
    "max_feature_correlation",
    "mean",
    "neutralize",
    "numerai_corr",
    "sharpe",
    "std",
    "turnover",
    "utility",
]
