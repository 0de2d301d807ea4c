"""Version 1 of the messages: generated code, never edited."""
