"""What a stream's bytes become between socket and lane: the page codec. Pure but for its own content files.

codec.py is the interface to the lanes. memory/ and disk/ understand QEMU's and NBD's streams, exchange/ what the two
ends say before a transfer; batch, contents, store and pace serve both. raw_codec and zstd_codec understand nothing and
carry everything else.
"""
