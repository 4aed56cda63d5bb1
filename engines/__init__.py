"""How a model becomes an engine, passes its gate, and runs."""
