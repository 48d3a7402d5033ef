"""`moebius compare`: the same fixed set on every adapter and implementation, and how far their answers lie apart.

`cases` and `endtoend` are the set, of `portable` noise; `measure` is a column's work, `trace` what it sees of a run, `child` the process
it is done in; `adapters` and `collect` find the adapters and look after the processes. `fingerprint` is the file's format, `files` reads
and writes it; `report` is what files say together, `document`, `pictures` and `publish` show it.
"""
