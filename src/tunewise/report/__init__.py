"""The page a run leaves behind, and the sentences shared with the terminal."""
