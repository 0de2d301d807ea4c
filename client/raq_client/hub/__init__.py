"""Models by name: from a model hub, from Ollama and from LM Studio."""
