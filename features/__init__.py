"""What is known about a viewer, a viewer with one streamer, and a room: contract, rows, kernel, store."""
