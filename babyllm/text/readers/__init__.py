"""Readers: raw files of many formats as a stream of documents, in bounded memory.

    paths -> find_partitions -> [Partition] -> read_partition -> Document | Rejected

`records` holds the settings and the types that readers share, `decoding` turns stored bytes into text, `find` finds
files and cuts them into pieces. Each module of `formats` reads one family of formats; `formats.table` lists them all.
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
