"""The YAML documents that a catalog is read from: the packaged seed, then the operator's overlays in order.

``yaml_exact`` reads YAML without a float, ``entries`` says what may stand in a document, ``layers`` puts documents on
top of each other, ``assemble`` makes the catalog of them, ``origin`` does it with files. README.md of this
distribution describes the format.
"""
