"""A world of drawn scenes and edits, small enough that every model of the method can be trained on two CPU cores.

`python -m small_world` lists the commands; each model is made by one of them, from its seed.
"""
