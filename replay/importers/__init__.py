"""Recordings of other platforms, turned into events of the contract."""
