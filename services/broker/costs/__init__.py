"""What a port costs, and which offer is the best by it. Pure: terms, rates and figures in, lines and reasons out.

`basis` is what the broker knows beforehand and a port keeps: rates of exchange, the record of kept promises, switching
charges. `lines` makes the lines of an offer or of what was measured, `offer` the costs of one offer, `choice` ranks
offers and says why each other one lost, `bill` bills a completed port.
"""
