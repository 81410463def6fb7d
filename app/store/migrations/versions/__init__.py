"""One file per revision; 0001 is the initial schema."""
