"""llq_read.py - tables of a results file of llq_sweep as numpy arrays.

    import llq_read
    with llq_read.open_results("results.h5") as f:
        summary = llq_read.read_table(f, "summary")
        f1 = summary["coqa_f1"].values          # one value an experiment
        items = llq_read.read_items(f, "bnb_4bit_nf4", seed=0, task="coqa")["f1"]
"""

import os
import sys
from dataclasses import dataclass

try:
    import h5py
    import numpy as np
except ImportError as missing:
    sys.exit(f"{sys.executable} has no {missing.name}: install h5py, numpy and matplotlib for it, or "
             "use the Python that has them (on Debian: /usr/bin/python3)")


class NotResults(Exception):
    """The file cannot be read as results of llq_sweep; the text says why in one line."""


@dataclass
class Column:
    """One column of a table: texts as str, truth values as bool, numbers as int or float."""

    name: str
    values: np.ndarray
    unit: str = ""
    description: str = ""
    higher_is_better: "bool | None" = None  # None: the column has no direction


class Table(dict):
    """Columns by name, in the order of the file; all equally long."""

    @property
    def n_rows(self):
        return len(next(iter(self.values())).values) if self else 0

    def numbers(self, name):
        """The column as floats; all NaN where the table has no such column."""
        if name not in self or self[name].values.dtype == object:
            return np.full(self.n_rows, np.nan)
        return self[name].values.astype(float)

    def texts(self, name):
        return [str(v) for v in self[name].values] if name in self else [""] * self.n_rows


def warnings_of(summary):
    """Lines "EXPERIMENT, ...: text" of /summary; experiments with the same text share one."""
    whose = {}
    for name, text in zip(summary.texts("name"), summary.texts("warnings")):
        if text:
            whose.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in whose.items()]


def open_results(path):
    """An open h5py.File; NotResults where it is none of ours."""
    if not os.path.exists(path):
        raise NotResults(f"{path}: no such file")
    try:
        f = h5py.File(path, "r")
    except OSError as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise NotResults(f"{path}: {reason}") from None
    if f.attrs.get("format") != "llq-results":
        f.close()
        raise NotResults(f"{path}: an HDF5 file, but not a results file of llq_sweep")
    return f


def _values(dataset):
    if h5py.check_string_dtype(dataset.dtype):
        return np.asarray(dataset.asstr()[...], dtype=object)
    return dataset[...]


def _column(name, dataset):
    direction = dataset.attrs.get("higher_is_better")
    return Column(
        name,
        _values(dataset),
        dataset.attrs.get("unit", ""),
        dataset.attrs.get("description", ""),
        None if direction is None else bool(direction),
    )


def read_table(f, path):
    """A table group ("summary", "experiments/NAME/statistics") as a Table; empty if absent."""
    if path not in f:
        return Table()
    return Table((name, _column(name, dataset)) for name, dataset in f[path].items())


def read_items(f, experiment, seed, task):
    """Per-item datasets of one job ("coqa": document_id, f1, ...), by name."""
    group = f[f"experiments/{experiment}/seeds/{seed}/{task}"]
    return {k: _values(d) for k, d in group.items() if isinstance(d, h5py.Dataset)}
