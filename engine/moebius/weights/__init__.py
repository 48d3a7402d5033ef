"""Files to parameters. Nothing in a file is executed.

store finds the file (hub fetches it), checkpoint reads one network from it by means of formats/ and infer, convert writes the float32 copy
that cache keeps, and bundle is our own file of both networks.
"""
