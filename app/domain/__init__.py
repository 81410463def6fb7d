"""Pure rules: dataclasses, enums and functions without I/O, clock or framework."""
