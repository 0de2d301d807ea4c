"""Model files and tables of their tensors: GGUF, safetensors, shapes, over HTTP; which tensors can be quantized."""
