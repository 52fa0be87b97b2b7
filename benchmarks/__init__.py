"""Measurements anyone can repeat: `make bench-NAME`. Each prints for people and ends with one line of JSON."""
