"""The difficulty of rows from a file: depths of dependency trees, grades, or any other numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError

COLUMN = "difficulty"


def given_numbers(file: Path, n_rows: int) -> NDArray[np.float64]:
    """(n_rows,) float64, the numbers of a .npy or .parquet file.

    Args:
        file: array of one axis, or a table with one column, or with a column "difficulty".
        n_rows: number of training rows, each of which needs a number.

    Raises:
        UserError: the file cannot be read, or does not hold one number for each row.
    """
    where = f"data.curriculum.column={file}"
    try:
        found = np.load(file) if file.suffix == ".npy" else _from_table(file)
        numbers = np.asarray(found, np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{where}: cannot be read as numbers ({error}); write a .npy or .parquet file") from error
    if numbers.shape != (n_rows,):
        raise UserError(
            f"{where}: holds {numbers.shape} numbers, and there are {n_rows:,} training rows; write one number for each"
        )
    if missing := np.flatnonzero(np.isnan(numbers)).tolist():
        raise UserError(f"{where}: number {missing[0]} (of {len(missing):,}) is missing; write one for each row")
    return numbers


def _from_table(file: Path) -> Any:
    import pyarrow.parquet as parquet

    names = parquet.read_schema(file).names
    name = names[0] if len(names) == 1 else COLUMN
    if name not in names:
        raise ValueError(f"no column {COLUMN} among {', '.join(names[:5])}")
    return parquet.read_table(file, columns=[name])[name].to_numpy()
