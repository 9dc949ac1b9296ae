"""Fine-tuning: recipes, grids, the loop and its state."""
