"""Versions side by side on disk: signed, promoted, rolled back, cleared away."""
