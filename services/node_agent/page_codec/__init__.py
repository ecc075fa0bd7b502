"""What becomes of a stream's bytes between socket and lane.

codec.py is the seam, zstd_codec.py the codec in use. Pure.
"""
