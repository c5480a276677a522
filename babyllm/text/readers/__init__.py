"""Readers: raw files of many formats as a stream of documents, in bounded memory.

    paths -> find_partitions -> [Partition] -> read_partition -> Document | Rejected

`records` has the settings and makes documents of records, `streams` gives bytes, lines and encodings, `find` finds
files and cuts them; the others read a family of formats each, and `formats` names them all.
"""

from babyllm.text.readers.find import WHOLE_FILES, Partition, find_partitions, key_of, left_out, read_partition
from babyllm.text.readers.named_fields import require_fields
from babyllm.text.readers.records import ReadConfig, Rejected, Source

__all__ = [
    "WHOLE_FILES",
    "Partition",
    "ReadConfig",
    "Rejected",
    "Source",
    "find_partitions",
    "key_of",
    "left_out",
    "read_partition",
    "require_fields",
]
