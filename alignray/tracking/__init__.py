"""MLflow: what is logged, spooled to disk first."""

from alignray.tracking.events import SWEEP_KEY, Event, RunEnd, RunMetrics, RunNote, RunStart
from alignray.tracking.spool import Spool
from alignray.tracking.tracker import Tracker, TrackerHandle, start_tracker, wait_until_written
from alignray.tracking.uri import EXPERIMENT, resolve_tracking_uri

__all__ = [
    "EXPERIMENT",
    "SWEEP_KEY",
    "Event",
    "RunEnd",
    "RunMetrics",
    "RunNote",
    "RunStart",
    "Spool",
    "Tracker",
    "TrackerHandle",
    "resolve_tracking_uri",
    "start_tracker",
    "wait_until_written",
]
