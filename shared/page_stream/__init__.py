"""The page stream's wire format: frames (frame.py) and the bodies of those that carry structure (bodies.py).

Pure; no protocol state.
"""
