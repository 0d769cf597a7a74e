"""Products with attention that never store its matrix: tiles, Triton, gradients."""
