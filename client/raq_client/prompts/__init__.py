"""Chats as the text that a model gets: read from records, rendered by the model's own chat template."""
