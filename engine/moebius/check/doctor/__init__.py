"""`moebius doctor`: is this adapter fit for use, and if not, what is to be done.

`examine` goes through the checks, a `Finding` each; `kernels` are those of every op, `picture` that of a whole run, `drivers` what is known
of drivers without measuring; `child` is the process in which an adapter is examined, for a broken driver may take it down.
"""
