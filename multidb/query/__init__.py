"""One read-only question to every app's place on a store, and the answers side by side.

`run` is all of it. `languages` says which store a question is for, `execution` puts it to all apps at once and gives
what comes as it comes; `values` knows what a value is in each form; `tables` makes one table of all answers where a
form has only one; `row_writers` writes lines of CSV and JSON, `arrow` Parquet and tables of DuckDB, with the libraries
of the extra ``query``.
"""
