"""Fine-tuning as the app begins it, without an app around it."""

from negmerge_kit.app.finetune_runs import FinetuneRuns
from negmerge_kit.app.jobs import Jobs
from negmerge_kit.app.plans import Plans
from negmerge_kit.app.uploads import Uploads


class Served:
    """Pools as far as fine-tuning knows them."""

    def __init__(self):
        self.jobs, self.opened, self.added = Jobs(), [], []

    def add(self, folder):
        self.added.append(folder)
        return folder.name

    def open(self, id):
        raise AssertionError("nothing is open")


def tunes_in(home, *, allowed=True):
    uploads = Uploads(home / "arrived", home / "private", allowed=allowed)
    return FinetuneRuns(Served(), Plans(home / "cache" / "pools"), uploads, device="cpu")
