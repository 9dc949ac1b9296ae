"""Images that a scene should both forget and keep, or that its candidates learn and its test asks: looked for first."""

from __future__ import annotations

from negmerge_kit.data.twins import find_twins
from negmerge_kit.errors import SceneError
from negmerge_kit.scenes.scene import Scene


def find_overlaps(scene: Scene) -> list[str]:
    """One sentence for each two image sets of a scene that share images, exactly or nearly.

    The images to forget are held against every retain set; where the model has no head of its own, those that
    candidates learn also against validation and test (a classifier forgets the very images that it is asked).

    Raises:
        SceneError: a retain set that has at least half of the images to forget of its split, pixel for pixel: no model
            can both forget and keep them.
    """
    learned, found = scene.images("train").forget, []
    for split in ("val", "test"):
        asked = scene.images(split)
        for kept in asked.retain:
            shared = find_twins(asked.forget.images, kept.images)
            if 2 * len(shared.exact) >= len(asked.forget) > 0:
                raise SceneError(
                    f"{len(shared.exact)} of the {len(asked.forget)} images to forget in {asked.forget.name} ({split}) "
                    f"are also to be kept, in {kept.name}: remove them from one of the two."
                )
        for other in asked.retain if scene.own_head else asked:
            twins = find_twins(learned.images, other.images)
            if n := len(twins.exact) + len(twins.near):
                place, twin = (twins.exact or twins.near)[0]
                found.append(
                    f"{n:,} of the {len(learned):,} images to forget (train) have a twin in {other.name} ({split}), "
                    f"{len(twins.exact):,} exact and {len(twins.near):,} near, such as image {place} and image {twin}"
                )
    return found
