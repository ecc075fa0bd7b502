"""Where many VMs are to run, and what to reserve, while demand and prices are uncertain: Chaisiri's OVMP and OCRP.

Pure. Only `services.broker.placement.solver` knows the solver's library. The model is explained in docs/broker.md.
"""
