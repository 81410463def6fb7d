"""The asyncio loops between inbox and effect: the imperative shell around the domain."""
