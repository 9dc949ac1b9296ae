"""Registry of the named data sets: Hub repository, size and licence.

A revision is written down here only where its whole hash is known for certain. Everywhere else `negmerge data prepare`
resolves the repository's main branch once, notes the commit in the cache (see `Pin`), stores it in every pool, and
uses no other afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One named data set.

    Args:
        title, licence, homepage: for people.
        repo: on the Hub.
        bytes: about how much the files of `train` and `test` are to download.
        images: about how many images there are in `train` and `test`.
        train, test: patterns of the files that hold them; an empty `train` means that both are drawn from `test`.
        image, label: names of the columns.
        revision: the commit, if it is certain.
        classes: the JSON file with class names and templates; the entry's own name if empty.
        flips: whether a mirrored image still shows its class.
        control: only kept, never forgotten: there is no training split.

    >>> DATASETS["svhn"].repo, DATASETS["svhn"].flips
    ('ufldl-stanford/svhn', False)
    """

    title: str
    repo: str
    licence: str
    homepage: str
    bytes: int
    images: tuple[int, int]
    train: str = "data/train-*"
    test: str = "data/test-*"
    image: str = "image"
    label: str = "label"
    revision: str | None = None
    classes: str = ""
    flips: bool = True
    control: bool = False


DATASETS: dict[str, Entry] = {
    "cars": Entry(
        "Stanford Cars",
        "tanganke/stanford_cars",
        "research only, as the authors ask",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        1_900_000_000,
        (8144, 8041),
    ),
    "dtd": Entry(
        "Describable Textures",
        "tanganke/dtd",
        "research only, as the authors ask",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        600_000_000,
        (3760, 1880),
    ),
    "eurosat": Entry(
        "EuroSAT satellite images",
        "tanganke/eurosat",
        "MIT",
        "https://github.com/phelber/EuroSAT",
        100_000_000,
        (21600, 2700),
    ),
    "gtsrb": Entry(
        "German traffic signs",
        "tanganke/gtsrb",
        "not stated; made for the GTSRB benchmark",
        "https://benchmark.ini.rub.de",
        300_000_000,
        (26640, 12630),
        flips=False,
    ),
    "mnist": Entry(
        "MNIST handwritten digits",
        "ylecun/mnist",
        "MIT, as the Hub says",
        "http://yann.lecun.com/exdb/mnist/",
        18_000_000,
        (60000, 10000),
        train="mnist/train-*",
        test="mnist/test-*",
        flips=False,
    ),
    "fashion-mnist": Entry(
        "Fashion-MNIST articles of clothing",
        "zalando-datasets/fashion_mnist",
        "MIT",
        "https://github.com/zalandoresearch/fashion-mnist",
        31_000_000,
        (60000, 10000),
        train="fashion_mnist/train-*",
        test="fashion_mnist/test-*",
    ),
    "resisc45": Entry(
        "RESISC45 satellite scenes",
        "tanganke/resisc45",
        "research only, as the authors ask",
        "https://gcheng-nwpu.github.io/",
        400_000_000,
        (18900, 6300),
    ),
    "sun397": Entry(
        "SUN397 scenes",
        "tanganke/sun397",
        "research only, as the authors ask",
        "https://vision.princeton.edu/projects/2010/SUN/",
        16_000_000_000,
        (19850, 19850),
    ),
    "svhn": Entry(
        "Street view house numbers",
        "ufldl-stanford/svhn",
        "non-commercial use only",
        "http://ufldl.stanford.edu/housenumbers/",
        183_000_000,
        (73257, 26032),
        train="cropped_digits/train-*",
        test="cropped_digits/test-*",
        revision="f9e1717d73324ebbc1ece84267ccd80d0aca0690",
        flips=False,
    ),
    "cifar10": Entry(
        "CIFAR-10",
        "uoft-cs/cifar10",
        "not stated",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        144_000_000,
        (50000, 10000),
        train="plain_text/train-*",
        test="plain_text/test-*",
        image="img",
    ),
    "cifar100": Entry(
        "CIFAR-100",
        "uoft-cs/cifar100",
        "not stated",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        142_000_000,
        (50000, 10000),
        train="cifar100/train-*",
        test="cifar100/test-*",
        image="img",
        label="fine_label",
    ),
    "tiny-imagenet": Entry(
        "Tiny ImageNet",
        "zh-plus/tiny-imagenet",
        "not stated; ImageNet's own terms: research only",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        160_000_000,
        (100_000, 10_000),
        test="data/valid-*",
    ),
    "cub200": Entry(
        "CUB-200-2011 birds",
        "bentrevett/caltech-ucsd-birds-200-2011",
        "non-commercial research and education only",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        1_150_000_000,
        (5994, 5794),
    ),
    "imagenet": Entry(
        "ImageNet, the authors' control: 5,000 training images choose, the validation folder is the test",
        "ILSVRC/imagenet-1k",
        "ImageNet's own terms: research only, accept them on the Hub and log in",
        "https://image-net.org",
        153_000_000_000,
        (1_281_167, 50000),
        test="data/validation-*",
        control=True,
    ),
    "imagenet-small": Entry(
        "ImageNet, a small control: 5,000 and 5,000 other images of the validation folder",
        "ILSVRC/imagenet-1k",
        "ImageNet's own terms: research only, accept them on the Hub and log in",
        "https://image-net.org",
        6_700_000_000,
        (0, 50000),
        train="",
        test="data/validation-*",
        classes="imagenet",
        control=True,
    ),
}
"""All named data sets; class names and templates of each are in `classes/NAME.json`, ImageNet's come from open_clip."""
