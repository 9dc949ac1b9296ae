"""Fine-tuning: recipes, grids, the loop, its state, and many processes of it."""
