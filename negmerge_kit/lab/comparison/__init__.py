"""Rules held against each other: by the paper's protocol, at matched retention, with intervals and costs."""
