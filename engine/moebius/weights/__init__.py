"""Files to parameters. Nothing in a file is executed.

store finds the file (hub fetches it), checkpoint reads one network from it by means of formats/ and infer, convert writes the float32 copy,
and bundle is our own file of both networks. Of the cache, folders says where it is, copies what is in it, refs of what, and cache lists and
clears it. identity is the digest by which a network is known.
"""
