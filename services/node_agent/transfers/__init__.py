"""The two sides of a port: each transfer as it runs, from the journal's first record to the clean-up.

The top room: it uses all the others, and none of them knows it.
"""
