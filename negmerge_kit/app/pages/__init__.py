"""Pages of the app: NAME.py answers, NAME_layout.py places the components and connects them."""
