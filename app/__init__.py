"""KoraOS Console: decides whether, when and in which order a command may take effect, and shows it live."""
