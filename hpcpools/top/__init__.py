"""The live view of both pools in a terminal.

``facts`` reads what it shows, ``watcher`` does so again and again in a thread, ``text`` makes words of it;
``app``, ``rows`` and ``dialogs``, alone with Textual, draw them. Refuses to interpret markup in names.
"""
