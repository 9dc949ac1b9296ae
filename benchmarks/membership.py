"""How long the membership attack of the papers' tables takes at CIFAR-10's size, on random answers.

    python benchmarks/membership.py [--members 10000] [--unseen 10000] [--forgotten 4500] [--threads 2]

An SVC on 20,000 rows for each feature, one after the other and then side by side, as a table of a classifier asks them.
The answers overlap as those of a trained network do, which is what the attack's time depends on.
"""

import argparse
import os
import time

import torch

from negmerge_kit.scoring.membership_attacks import AT_ONCE, FEATURES, attack_efficacy, every_efficacy


def answers(n, margin, seed):
    """Random logits [n, 10] whose true class leads by `margin` on average, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=draw)
    logits = torch.randn(n, 10, generator=draw)
    logits[torch.arange(n), labels] += margin + 2 * torch.randn(n, generator=draw)
    return logits, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--unseen", type=int, default=10_000)
    parser.add_argument("--forgotten", type=int, default=4_500)
    parser.add_argument("--threads", type=int, default=2, help="cores that the process may use (default 2)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.threads]))
    torch.set_num_threads(options.threads)
    sets = [answers(options.members, 8, 1), answers(options.unseen, 6, 2), answers(options.forgotten, 7.5, 3)]
    print(f"{options.members} members, {options.unseen} unseen, {options.forgotten} forgotten, {options.threads} cores")
    for name in FEATURES:
        started = time.perf_counter()
        found = attack_efficacy(*sets, name)
        print(f"{name:16} {time.perf_counter() - started:6.1f} s   called non-members {100 * found:.2f} %", flush=True)
    started = time.perf_counter()
    every_efficacy(*sets)
    print(f"{'all six':16} {time.perf_counter() - started:6.1f} s   {AT_ONCE} at a time")


if __name__ == "__main__":
    main()
