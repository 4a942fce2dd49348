"""Mask, cut, splice and verify."""
