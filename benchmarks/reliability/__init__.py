"""Kills at random moments and injected errors of the disk, counted."""
