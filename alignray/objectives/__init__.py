"""What training minimises. One objective in a comparison is an arm."""

from alignray.objectives.arms import (
    OBJECTIVES,
    Aligned,
    FenchelYoung,
    Misaligned,
    Mse,
    Objective,
    objective,
    regret,
)

__all__ = ["OBJECTIVES", "Aligned", "FenchelYoung", "Misaligned", "Mse", "Objective", "objective", "regret"]
