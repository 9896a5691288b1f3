"""Backups: one set of one app over all of its stores, verified by restoring it.

`sets`      what a set is, and its ``manifest.json``; `set_ids`; `labels` of the apps that are clones
`streams`   the way of its bytes: checksum, zstd, age, checksum, target, and back; `encryption`, `targets`
`repository` sets on targets; `copying` brings one to another; `retention` and `pruning` say which stay
`creation`, `verifying`, `restoring`, `cloning`  the work; `places` has a place beside the live one for it
`journal`   what has begun and not ended; `recovery` finishes or undoes it
`schedule`, `run`  what is due, and one run from beginning to end

A store's own part is its ``Archive`` (`multidb.model.archive`); nothing here knows a store by name.
"""
