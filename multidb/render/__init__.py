"""From values to the text of files: pure functions, nothing is written here."""
