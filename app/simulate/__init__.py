"""Realistic WhatsApp traffic through the public API, as a provider and an orchestrator make it."""

from app.simulate.api import Api, Webhooks
from app.simulate.report import Journal, Report
from app.simulate.runner import run

__all__ = ["Api", "Journal", "Report", "Webhooks", "run"]
