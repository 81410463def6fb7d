"""HTTP: the machines' API, the console, ACK pages and the live stream."""
