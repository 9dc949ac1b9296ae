import sys
from pathlib import Path

# Workers unpickle the tests' jobs by the name of their module: it must be importable there as here.
sys.path.insert(0, str(Path(__file__).parent))
