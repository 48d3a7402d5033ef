"""The ops of the contract as dispatches, a file a kind.

Formulas are in `moebius.model.contract`, layouts in the shaders, packing in `pack`.
"""
