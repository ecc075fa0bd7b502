"""Rules as data: typed predicates, the regimes that hold them, and the evaluator. Pure: no files, no clock.

Broker and donor judge by the same predicates, so that "minimum stay" means one thing. Regimes are read by `regime`; who
reads their files is `services.broker`. There is no expression language: what no predicate says, no regime can say.
"""
