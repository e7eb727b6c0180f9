"""MLflow: what is logged, spooled to disk first."""

from alignray.tracking.access import require_access
from alignray.tracking.events import SWEEP_KEY, Event, NodeMetrics, RunEnd, RunMetrics, RunNote, RunStart
from alignray.tracking.nodes import start_monitors
from alignray.tracking.secrets import without_secrets
from alignray.tracking.spool import Spool, unconfirmed_bytes
from alignray.tracking.tracker import (
    Backlog,
    Tracker,
    TrackerHandle,
    backlog_of,
    runs_of,
    start_tracker,
    wait_until_written,
)
from alignray.tracking.uri import EXPERIMENT, resolve_tracking_uri, with_password, without_password

__all__ = [
    "EXPERIMENT",
    "SWEEP_KEY",
    "Backlog",
    "Event",
    "NodeMetrics",
    "RunEnd",
    "RunMetrics",
    "RunNote",
    "RunStart",
    "Spool",
    "Tracker",
    "TrackerHandle",
    "backlog_of",
    "require_access",
    "resolve_tracking_uri",
    "runs_of",
    "start_monitors",
    "start_tracker",
    "unconfirmed_bytes",
    "wait_until_written",
    "with_password",
    "without_password",
    "without_secrets",
]
