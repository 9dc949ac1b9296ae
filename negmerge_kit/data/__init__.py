"""Data: named, own and Hub image sets in three splits, decoded once and kept as uint8."""

from negmerge_kit.data.find import find_data
from negmerge_kit.data.registry import DATASETS
from negmerge_kit.data.source import DataSource
from negmerge_kit.data.transform import Transform

__all__ = ["DATASETS", "DataSource", "Transform", "find_data"]
