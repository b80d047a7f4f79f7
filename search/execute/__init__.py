"""WHERE and HOW trials run: the Ray cluster, its nodes, the workers, the stopping rules.

May import: values, errors, Ray. ``worker`` and ``node_probe`` run on the nodes and import no driver
code. ``controller`` alone uses private parts of Ray Tune; what else is not public of Ray, such as
the words of its messages, is listed in ``docs/architecture.md``.
"""
