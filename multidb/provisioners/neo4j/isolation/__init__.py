"""The walls between apps: every one tried, every catalog searched for holes."""
