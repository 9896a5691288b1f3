"""Files of an app, beside its stores, as a part of its sets.

`entries`    what a location has: folders, files and links, in an order that is always the same; their measures
`tree`       reading and writing such on this machine, name by name, so that no link leads out of a location
`sqlite`     an SQLite database as it is at one moment, by its own online backup
`tar`        the one file that they are in a set
`locations`  a location of this machine, or storage that fsspec knows
`part`       the part of a set: written, loaded beside what is there, compared, put in its place

What lies in a location was written by the app, and what lies in a set by anybody: both are data, their names too.
"""
