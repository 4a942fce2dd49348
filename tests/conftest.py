"""Shared by all tests: this file's folder goes on the import path, so that tests can import the factories in it."""
