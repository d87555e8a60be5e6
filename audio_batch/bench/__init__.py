"""How fast, by how much memory, and beside what others: `audio-batch bench`."""
