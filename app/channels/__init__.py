"""The outside world: WhatsApp providers, apprise, webhooks and the simulated phone."""
