"""What a port costs this host in energy: counters of the CPU (RAPL), a fit of Liu's form, and the file that keeps it.

E = joules_per_byte * bytes on the wire + joules_per_s * seconds, above what the host uses anyway.
"""
