"""The front door: light to open, complete, and documented."""

import subprocess
import sys

import pytest

import negmerge_kit

HEAVY = ("torch", "open_clip", "gradio", "ray", "ipywidgets", "matplotlib", "numpy")


@pytest.mark.parametrize("code", ["import negmerge_kit", "from negmerge_kit.cli import main; main(['--help'])"])
def test_nothing_heavy_loads(code):
    probe = f"import sys\n{code}\nprint('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert shown.strip().splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("name", [name for name in negmerge_kit.__all__ if name != "__version__"])
def test_public_names_exist_and_are_documented(name):
    value = getattr(negmerge_kit, name)
    if callable(value):
        assert value.__doc__ and value.__doc__.strip().splitlines()[0].endswith((".", ":")), name


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="offers"):
        _ = negmerge_kit.nonsense


@pytest.mark.slow
def test_merging_opens_no_file_and_knows_no_model():
    probe = (
        "import sys, negmerge_kit.merging\n"
        "rooms = ('safetensors', 'open_clip', 'torchvision', 'negmerge_kit.checkpoints')\n"
        "print([name for name in rooms if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
