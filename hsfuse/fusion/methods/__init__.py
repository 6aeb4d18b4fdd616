"""Fusion methods: one folder each, found through entry points, never named elsewhere.

A method's folder exports one *entry* per name on the command line, a :class:`hsfuse.fusion.registry.MethodEntry`, which
is declared in ``pyproject.toml``::

    [project.entry-points."hsfuse.methods"]
    glp = "hsfuse.fusion.methods.glp:METHOD"

Methods of other packages are declared the same way and are used the same way: ``run --method``, ``compare``,
``train-reduced --method``, ``models``. The module that an entry point names must import quickly, so it imports PyTorch
inside functions only.

A classical method needs a class derived from :class:`hsfuse.fusion.base.FusionMethod`::

    def _create(**options):
        from hsfuse.fusion.methods.glp.method import Glp
        return Glp(**options)

    METHOD = MethodEntry("glp", family="multiresolution analysis", summary="...", create=_create)

A trained network adds a :class:`hsfuse.fusion.registry.NetworkEntry`: the name of its architecture, which its weights
carry; its settings, plain values; how a module is built from them; how a module with weights becomes a fusion method;
and the training task. It has no ``create``: its weights are found by name or given with ``--model``.
"""
