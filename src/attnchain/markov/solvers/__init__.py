"""What is solved for one chain: linear equations, eliminations, eigenvalues."""
