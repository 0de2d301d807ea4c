"""How much the output of a model moves with each tensor: measured, designed, estimated, imported."""
