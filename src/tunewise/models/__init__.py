"""Bases: found, described, loaded, and asked for vectors."""
