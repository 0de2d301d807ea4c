"""Error-compensated quantization: statistics of pairs of input columns, and rounding that uses them."""
