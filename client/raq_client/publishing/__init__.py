"""Publishing: the model card of quantized files, the folder that is uploaded, and the upload."""
