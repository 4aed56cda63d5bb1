"""`tipstream demo`: the whole on one machine, for a minute, with nothing else needed."""

from scorer.demo.show import run

__all__ = ["run"]
