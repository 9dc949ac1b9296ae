"""What a researcher does: fine-tune candidates, score them, merge them live on a workbench."""
