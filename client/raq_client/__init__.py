"""The raq client: models in, plans and quantized models out. Import the modules you need; this name alone is light."""
