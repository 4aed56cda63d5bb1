"""The commands of `tipstream-engine`, by what they are about."""
