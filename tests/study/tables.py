"""Compare tables of studies."""

import pandas as pd


def rows(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def assert_same_tables(a, b, **tolerance):
    """Equal up to the order of the rows and the rounding of float32."""

    def plain(table):
        table = table.astype(dict.fromkeys(["image", "model", "method", "mode"], str))
        keys = ["image", "method", "mode", "step"]
        return table.sort_values(keys, ignore_index=True)

    pd.testing.assert_frame_equal(plain(a), plain(b), **({"rtol": 0, "atol": 1e-6} | tolerance))
