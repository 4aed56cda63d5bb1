"""Simulated traffic: seeded, streaming, after published statistics, with a known chance of every tip."""

from replay.simulate.simulator import Moment, simulate
from replay.simulate.traffic import Traffic, TrafficError

__all__ = ["Moment", "Traffic", "TrafficError", "simulate"]
